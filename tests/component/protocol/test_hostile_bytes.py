"""Whatever bytes lie in Redis or in a model's file: an error of ours comes out of them, or a value."""

import json
import tracemalloc
import zlib

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.decoders import DECODERS, SEPARATOR

NAMES = pytest.mark.parametrize("name", sorted(DECODERS))

#: Values that nobody expects, by kind of packing.
ODD_JSON = [
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "\ud800",
    "x\x1b[31m",
    [],
    {},
    [[]],
    "9" * 5_000,
]
ODD_MSGPACK = [
    None,
    True,
    -1,
    0,
    2**63,
    1e308,
    float("inf"),
    float("nan"),
    "",
    b"",
    b"\xff" * 9,
    [],
    {},
    [[]],
    "x\x1b[31m",
]
ODD_PIECES = [
    b"",
    b"-1",
    b"1e999",
    b"nan",
    b"0x10",
    b"\xff\xfe",
    b"9" * 5_000,
    b"active",
    b"done",
    b"5 ",
    b" ",
    b"\x00",
]


def replaced(draw, value, odd):
    """Returns a tree in which one thing is another; keeps the trees small that a draw must walk."""
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], replaced(draw, value[place], odd), *value[place + 1 :]]
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        name = draw(st.sampled_from(list(value)))
        return value | {name: replaced(draw, value[name], odd)}
    return draw(st.sampled_from(odd))


@st.composite
def damaged(draw, seeds):
    """Bytes near to good ones: a value, a piece or some bytes are others, or the end is missing."""
    seed = draw(st.sampled_from(seeds))
    match draw(st.sampled_from(["bytes", "tree", "pieces", "cut"])):
        case "tree" if seed[:1] in (b"\x00", b"\x01") and SEPARATOR not in seed:
            plain = zlib.decompress(seed[1:]) if seed[:1] == b"\x01" else seed[1:]
            try:
                tree = msgpack.unpackb(plain)
            except ValueError:
                return seed
            return b"\x00" + msgpack.packb(replaced(draw, tree, ODD_MSGPACK))
        case "tree" if seed[:1] in (b"{", b"["):
            return json.dumps(replaced(draw, json.loads(seed), ODD_JSON)).encode()
        case "pieces" if SEPARATOR in seed:
            pieces = seed.split(SEPARATOR)
            pieces[draw(st.integers(0, len(pieces) - 1))] = draw(st.sampled_from(ODD_PIECES))
            return SEPARATOR.join(pieces)
        case "cut":
            return seed[: draw(st.integers(0, len(seed)))]
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@NAMES
def test_good_bytes_are_read(name):
    decoder = DECODERS[name]
    for seed in decoder.seeds:
        decoder(seed)


@pytest.mark.property
@NAMES
def test_damaged_bytes_give_a_value_or_an_error_of_ours(name):
    decoder = DECODERS[name]

    @settings(suppress_health_check=list(HealthCheck))
    @given(st.one_of(damaged(decoder.seeds), damaged(decoder.seeds), st.binary(max_size=200)))
    def holds(data):
        decoder(data)

    holds()


BOMBS = {
    "a list of four billion": b"\x00\xdd\xff\xff\xff\xff",
    "lists in lists": b"\x00" + b"\xdc\xff\xff" * 5_000,
    "deep": b"\x00" + b"\x91" * 100_000,
    "deep JSON": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "inflated": b"\x01" + zlib.compress(bytes(1 << 28), 1),
    "a number of a million digits": b"9" * 1_000_000,
    "a header of exabytes": b"\xff" * 7 + b"\x7f" + b"{}",
    "a tensor of exabytes": (60).to_bytes(8, "little")
    + b'{"t":{"dtype":"F32","shape":[9e18,9e18],"data_offsets":[0,4]}}  ',
    "many pieces": SEPARATOR.join([b"7"] * 50_000),
}


@NAMES
@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_announces_much_takes_little(name, bomb):
    data = BOMBS[bomb]
    tracemalloc.start()
    try:
        DECODERS[name](data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 96 << 20
