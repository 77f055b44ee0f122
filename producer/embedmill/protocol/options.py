"""The options by which the texts of a job are embedded, and how a record stores them. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from embedmill.errors import InvalidRequestError, MessageError
from embedmill.limits import MAX_DIMENSION
from embedmill.protocol.codec import pack, unpack_list
from embedmill.protocol.vectors import Dtype
from embedmill.safe.printable import kind

#: Whether texts are queries or passages, for models that expect a different prefix for each.
InputType = Literal["query", "passage"]

INPUT_TYPES: Final[tuple[InputType, ...]] = get_args(InputType)

_NONE: Final = type(None)

#: Types that each position of the packed list may hold.
_OPTIONS_TYPES: Final = ((str, _NONE), (int, _NONE), (str,), (bool,))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """The options by which the texts of a job are embedded."""

    #: Which of the model's prefixes to put before each text; None: no prefix.
    input_type: InputType | None = None
    #: Components of each vector to keep; None: all.
    dimensions: int | None = None
    dtype: Dtype = Dtype.FLOAT32
    #: Whether a text over the model's limit is cut; False: it is rejected.
    truncate: bool = True

    if TYPE_CHECKING:  # ``__post_init__`` also takes plain strings, which it checks and converts

        def __init__(
            self,
            *,
            input_type: str | None = None,
            dimensions: int | None = None,
            dtype: str = "float32",
            truncate: bool = True,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", Dtype.parse(self.dtype))
        if self.input_type is not None and self.input_type not in INPUT_TYPES:
            raise InvalidRequestError(
                "input_type", f"{kind(self.input_type)} is not one of {', '.join(INPUT_TYPES)}, None"
            )
        if self.dimensions is not None and (
            type(self.dimensions) is not int or not 1 <= self.dimensions <= MAX_DIMENSION
        ):
            raise InvalidRequestError("dimensions", f"{kind(self.dimensions)} is not an int from 1 to {MAX_DIMENSION}")
        if type(self.truncate) is not bool:
            raise InvalidRequestError("truncate", f"{kind(self.truncate)} is not a bool")


def options_to_list(options: EmbedOptions) -> list[Any]:
    """Return the options as a flat list for msgpack."""
    return [options.input_type, options.dimensions, str(options.dtype), options.truncate]


def pack_options(options: EmbedOptions) -> bytes:
    """Pack the options of a job record."""
    return pack(options_to_list(options))


def unpack_options(data: bytes) -> EmbedOptions:
    """Read the options of a job record.

    Raises:
        MessageError: the data cannot be read, or does not hold valid options.
    """
    values = unpack_list(data, 4_096, "job options", _OPTIONS_TYPES)
    try:
        return EmbedOptions(input_type=values[0], dimensions=values[1], dtype=values[2], truncate=values[3])
    except InvalidRequestError as error:
        raise MessageError(f"job options are not valid: {error}") from None
