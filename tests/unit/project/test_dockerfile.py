"""The image installs what a clone does, runs as nobody special, and contains nothing it need not."""

import json
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def instructions(name: str) -> list[str]:
    """Arguments of every `name` instruction, in order."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, flags=re.MULTILINE)


def installs(text: str) -> list[str]:
    """What each `pip install` line installs and how, without the program's path or its verbosity."""
    found = re.findall(r"^(?:RUN |\t)\S+(?: -m pip)?(?: --[a-z-]+)* install (.*)$", text, flags=re.MULTILINE)
    return [line.replace("-e .", ".") for line in found]


def test_the_image_and_a_clone_install_the_same() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    runtime = makefile[makefile.index("$(VENV)/.runtime:") : makefile.index("$(VENV)/.dev:")]
    assert installs(DOCKERFILE) == installs(runtime)
    assert installs(DOCKERFILE) == [
        "--require-hashes -r requirements.lock",
        "--no-deps --no-build-isolation .",
    ]


def test_the_image_does_not_run_as_root() -> None:
    (user,) = instructions("USER")
    assert int(user) > 0


def test_signals_reach_the_program_itself() -> None:
    assert [json.loads(line) for line in instructions("ENTRYPOINT")] == [["embedmill"]]
    assert [json.loads(line) for line in instructions("CMD")] == [["worker"]]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_data_is_outside_the_image() -> None:
    assert instructions("VOLUME") == ["/data"]
    assert "EMBEDMILL_DATA_DIR=/data" in DOCKERFILE


def test_the_image_says_whether_it_is_well() -> None:
    (check,) = instructions("HEALTHCHECK")
    assert check.endswith('CMD ["embedmill", "health", "--live"]')


def test_everything_copied_is_let_through_and_nothing_else_is() -> None:
    ignore = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    allowed = {line.removeprefix("!") for line in rules if line.startswith("!")}
    copies = [line.split()[:-1] for line in instructions("COPY") if not line.startswith("--from")]
    copied = {source for sources in copies for source in sources}
    assert rules[0] == "*"
    assert copied == allowed
    assert all((REPOSITORY / source).exists() for source in copied)
