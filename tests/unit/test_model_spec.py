"""How people name a model, and what it is then called."""

import pytest

from embedmill.errors import SettingsError
from embedmill.model_spec import ModelSpec, first_model, named_model


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("intfloat/e5-small-v2", "intfloat/e5-small-v2"),
        ("intfloat/e5-small-v2@v1.0", "intfloat/e5-small-v2@v1.0"),
        ("/models/e5", "e5"),
        ("/models/e5/", "e5"),
        ("/models/../models/e5/.", "e5"),
        ("./my-model", "my-model"),
        ("../my-model", "my-model"),
        ("~/my-model", "my-model"),
        ("/models/e5/model.onnx", "e5"),
        ("/models/e5/onnx/model_quantized.onnx", "e5"),
        ("./cc.id.300.bin", "cc.id.300"),
        ("cc.id.300.bin", "cc.id.300"),
        ("/hub/models--intfloat--e5-small-v2/snapshots/0123abc", "intfloat/e5-small-v2"),
        ("/hub/models--intfloat--e5-small-v2/snapshots/0123abc/onnx/model.onnx", "intfloat/e5-small-v2"),
        ("mine=/models/e5", "mine"),
        (" mine = ./e5 ", "mine"),
        ("org/mine=org/other@v1", "org/mine"),
        ("./a=b/model", "model"),
    ],
)
def test_a_model_is_called_as_it_is_named_or_as_its_folder_is(text, name):
    assert ModelSpec.parse(text).name == name
    assert first_model(f"{text},other") == name


def test_a_relative_folder_that_is_there_is_a_path_and_otherwise_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ModelSpec.parse("models/e5").repository == ("models/e5", "")
    (tmp_path / "models/e5").mkdir(parents=True)
    spec = ModelSpec.parse("models/e5")
    assert (spec.name, str(spec.path), spec.repository) == ("e5", "models/e5", None)
    assert str(spec.absolute()) == f"e5={tmp_path}/models/e5"
    assert ModelSpec.parse(".").name == tmp_path.name


def test_a_repository_has_a_revision_or_the_newest_one():
    assert ModelSpec.parse("org/name").repository == ("org/name", "")
    assert ModelSpec.parse("org/name@refs/pr/3").repository == ("org/name", "refs/pr/3")
    assert ModelSpec.parse("mine=org/name@abc").repository == ("org/name", "abc")
    for place in ("name", "./org/name", "/org/name", "a/b/c"):
        assert ModelSpec(name="x", place=place).repository is None


@pytest.mark.parametrize("text", ["a", "org/a@v1", "mine=/models/e5", "mine=org/a"])
def test_it_is_written_as_it_was_read(text):
    assert str(ModelSpec.parse(text)) == text
    assert ModelSpec.parse(str(ModelSpec.parse(text).absolute())) == ModelSpec.parse(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "write a name"),
        ("=x", "write a name"),
        ("x=", "write a name"),
        ("my model", "a model name matches"),
        (
            "/models/my model",
            "the folder's name 'my model' cannot be a model's name; write name='/models/my model'",
        ),
        ("/", "write name="),
        ("~nobody-here/x", "its home directory does not exist"),
        ("a b=/models/e5", "a model name matches"),
        ("https://huggingface.co/org/name", "write org/name for a repository of a hub"),
    ],
)
def test_what_cannot_be_a_name_is_refused_with_the_way_out(text, named):
    with pytest.raises(SettingsError) as raised:
        ModelSpec.parse(text)
    assert named in str(raised.value)


def test_two_models_of_one_name_are_refused():
    with pytest.raises(SettingsError, match="two models are called e5; write name=folder"):
        ModelSpec.parse_all("/a/e5, /b/e5")
    assert [spec.name for spec in ModelSpec.parse_all("/a/e5, other=/b/e5,")] == ["e5", "other"]
    assert ModelSpec.parse_all(" , ") == ()
    assert first_model(" ") is None


def test_a_caller_s_model_is_a_name_or_a_path_and_is_not_quoted():
    assert [named_model(text) for text in ("org/a@v1", "./mine", "/models/e5", "n=/models/e5")] == [
        "org/a@v1", "mine", "e5", "n",
    ]  # fmt: skip
    for text in ("a text of a user", "=", "./a text of a user", "n n=x"):
        with pytest.raises(SettingsError) as raised:
            named_model(text)
        assert "text" not in str(raised.value) and str(raised.value).startswith("model=a str of")
