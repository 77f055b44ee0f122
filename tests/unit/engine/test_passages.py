"""Python's language reference becomes passages of prose."""

from pydoc_data.topics import topics

from embedmill_worker.engine.probing.passages import MOST_WORDS, passages

TOPIC = """
The "while" statement
*********************

The "while" statement is used for repeated execution as long as an
expression is true:

   while_stmt ::= "while" assignment_expression ":" suite
                  ["else" ":" suite]

This repeatedly tests the *expression* and, if it is true, executes a
non-
empty suite of statements.  [1]

   >>> while True:
   ...     pass

Details
=======

object.__call__(self[, args...])

   Called when the instance is called as a function and returns whatever
   the function that it stands for would return to its caller.
"""


def test_prose_is_kept_and_code_and_grammar_are_not():
    first, second = passages({"while": TOPIC})
    assert first.title == "The while statement"
    assert first.body == (
        "The while statement is used for repeated execution as long as an expression is true:\n"
        "This repeatedly tests the expression and, if it is true, executes a non-empty suite of statements."
    )
    assert first.text == f"{first.title}\n{first.body}"
    assert second.title == "The while statement: Details"
    assert second.body.startswith("object.__call__(self[, args...]): Called when the instance")


def test_topics_that_overlap_give_each_passage_once_under_the_narrower_name():
    heading = "Compound statements\n*******************\n"
    section = TOPIC.split("Details")[0].replace("*" * 21, "=" * 21)
    wide = f"{heading}{section}\n{'And so on. ' * 200}"
    titles = [passage.title for passage in passages({"compound": wide, "while": TOPIC})]
    assert titles.count("The while statement") == 1
    assert "Compound statements: The while statement" in titles  # what only the wider topic has
    assert len(titles) == 3


def test_the_reference_of_this_python_gives_hundreds_of_passages_of_readable_length():
    found = passages(topics)
    words = sorted(len(p.body.split()) for p in found)
    assert len(found) > 300
    assert words[0] >= 15
    assert 50 <= words[len(words) // 2] <= MOST_WORDS
    assert not [p.title for p in found if "::=" in p.body or ">>>" in p.body]
    assert any("as long as an expression is true" in p.body for p in found)
