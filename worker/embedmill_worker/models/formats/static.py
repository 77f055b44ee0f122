"""Static models (model2vec): a table of token vectors and no transformer."""

import json
from dataclasses import dataclass
from pathlib import Path

from embedmill.errors import ModelLoadError
from embedmill_worker.models.disk import read_json, read_note, sha256_of, told
from embedmill_worker.models.formats.safetensors import SafetensorsFile

#: Maximum tokens of an input: model2vec's default and fastembed's limit.
MAX_TOKENS = 512
#: Names of tensors: vectors, (rows, dimension); if tokens share rows, each token's row and weight, (vocabulary,).
TABLE, MAPPING, WEIGHTS = "embeddings", "mapping", "weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticTable:
    """A static model on this machine's disk; an instance exists only if its files fit together.

    Raises:
        ModelLoadError: a file is missing or damaged.
    """

    #: Name that users give it.
    name: str
    #: Path of the safetensors file with the table.
    table: Path
    #: Path of `tokenizer.json`.
    tokenizer: Path
    #: Whether vectors are scaled to L2 length 1.
    normalize: bool
    #: Id of the unknown token, which is skipped; None if the tokenizer has none.
    unknown_id: int | None
    #: Precision of the stored table: "fp32", "fp16"…
    precision: str = "fp32"
    weights_sha256: str
    tokenizer_sha256: str
    #: Origin of a fetched model, as "org/name@commit"; empty for local files.
    revision: str = ""

    def __post_init__(self) -> None:
        with told(self.name):
            try:
                shape = SafetensorsFile(self.table).shape(TABLE)
            except ValueError as error:
                raise ModelLoadError(self.name, f"{self.table}: {error}; restore it") from None
        if len(shape) != 2 or not all(shape):
            raise ModelLoadError(self.name, f"{self.table}: {TABLE} has shape {shape}, (rows, dimension) is needed")

    @property
    def paths(self) -> dict[str, Path]:
        """Files in use, by role."""
        return {"table": self.table, "tokenizer": self.tokenizer}


def static_table(
    name: str, folder: Path, *, table: str = "model.safetensors", normalize: bool | None = None
) -> StaticTable:
    """Describe a folder with a static model; `normalize` defaults to the value in `config.json`.

    Raises:
        ValueError: a file is damaged.
        OSError: a file cannot be read.
        ModelLoadError: the table cannot be served.
    """
    tokenizer = folder / "tokenizer.json"
    if normalize is None:
        normalize = bool(read_json(folder / "config.json").get("normalize", False))
    return StaticTable(
        name=name,
        table=folder / table,
        tokenizer=tokenizer,
        normalize=normalize,
        unknown_id=_unknown_id(tokenizer),
        precision=SafetensorsFile(folder / table).precision(TABLE),
        weights_sha256=sha256_of(folder / table),
        tokenizer_sha256=sha256_of(tokenizer),
    )


def is_static(folder: Path) -> bool:
    """Return whether a folder's `config.json` says that it holds a static model."""
    return read_json(folder / "config.json").get("model_type") == "model2vec"


def _unknown_id(tokenizer: Path) -> int | None:
    try:
        model = json.loads(read_note(tokenizer))["model"]
        if model.get("type") == "Unigram":
            stated = model.get("unk_id")
        else:
            vocabulary, unknown = model.get("vocab"), model.get("unk_token")
            stated = vocabulary.get(unknown) if unknown and isinstance(vocabulary, dict) else None
        return None if stated is None else int(stated)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{tokenizer} is damaged ({error!r}); restore it") from None
