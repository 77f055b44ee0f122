"""A writer that builds an ONNX graph node by node, with its large weights in a file beside it."""

from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from embedmill_worker.models.formats.onnx_graph import DATA_NAME

#: Domain of ONNX Runtime's own operators.
FUSED = "com.microsoft"
#: Weights of at least this size go to the data file, which ONNX Runtime maps. MiniLM's session then starts in 60 ms
#: instead of 200, and all processes share its embedding table.
_DATA_FROM_BYTES = 1024
#: Weights start on a page boundary, as mapping requires.
_PAGE_BYTES = 4096


class OnnxWriter:
    """A writer of nodes and weights; values are identified by name, as in ONNX. Equal calls write equal bytes."""

    def __init__(self, data: IO[bytes], *, opset: int, prefix: str = "") -> None:
        """Start an empty graph.

        Args:
            data: file for the large weights, which the graph refers to as `DATA_NAME`.
            opset: version of the standard operators to write.
            prefix: prefix of generated names, so that they differ from names in a graph that is copied.
        """
        self.opset = opset
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._data = data
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def node(self, kind: str, inputs: Sequence[str], *, output: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        name = output or self._fresh(kind)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike, name: str = "") -> str:
        """Add a weight and return its name; equal small weights are added once."""
        # Not ascontiguousarray, which turns a scalar into a vector.
        array = np.asarray(value, dtype=np.dtype(dtype).newbyteorder("<"), order="C")
        is_small = array.nbytes < _DATA_FROM_BYTES
        key = (array.dtype.str, array.shape, array.tobytes() if is_small else b"")
        if not name and is_small and key in self._small:
            return self._small[key]
        name = name or self._fresh("weight")
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        if is_small:
            tensor.raw_data = key[2]
            self._small[key] = name
        else:
            self._data.write(bytes(-self._data.tell() % _PAGE_BYTES))
            tensor.data_location = TensorProto.EXTERNAL
            for entry, text in (("location", DATA_NAME), ("offset", self._data.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=entry, value=str(text))
            self._data.write(array.reshape(-1).view(np.uint8).data)
        self.initializers.append(tensor)
        return name

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{self._prefix}{kind}.{self._count}"
