"""Values that may be anybody's text are described and not quoted; what is shown moves no cursor."""

import pytest

from embedmill.errors import UnknownModelError, some
from embedmill.safe.printable import kind, printable

CANARY = "canaryzebra"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (CANARY, "a str of 11 characters"),
        (CANARY.encode(), "a bytes of 11 items"),
        ([CANARY, CANARY], "a list of 2 items"),
        ({CANARY: 1}, "a dict of 1 items"),
        (None, "None"),
        (True, "True"),
        (-3, "-3"),
        (0.5, "0.5"),
        (10**30, "an endless int"),
        (object(), "a object"),
    ],
)
def test_a_value_is_named_by_its_type_and_length(value, says):
    assert kind(value) == says
    assert CANARY not in kind(value)


def test_control_characters_become_escapes():
    assert printable("a\x1b[2Jb\nc\u202ed") == "a\\x1b[2Jb\\nc\\u202ed"
    assert printable("a\x1b\nb\tc", keep="\n\t") == "a\\x1b\nb\tc"
    assert printable("Selamat pagi, «ü»") == "Selamat pagi, «ü»"


def test_a_long_list_of_names_is_counted():
    assert some(("a", 2)) == "a, 2"
    assert some(str(n) for n in range(22)) == ", ".join(map(str, range(20))) + " and 2 more"
    assert len(str(UnknownModelError("", tuple("m" * 500 for _ in range(1_000))))) < 12_000


def test_a_long_text_is_cut():
    assert printable("x" * 600, limit=512) == "x" * 511 + "…"
    assert len(printable("\x1b" * 600, limit=512)) == 512
    assert printable("x" * 512, limit=512) == "x" * 512
