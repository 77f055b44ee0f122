"""Builds an ONNX graph node by node, its large weights in a file beside it."""

from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from embedmill_worker.models.formats.onnx_graph import DATA_NAME

#: Domain of ONNX Runtime's own operators.
FUSED = "com.microsoft"
#: Weights from this size on stand in the data file, where ONNX Runtime maps them: MiniLM's session then starts in
#: 60 ms instead of 200, and its embedding table is shared by every process that has it open.
_DATA_FROM_BYTES = 1024
#: Weights begin on a page of their own, as mapping wants it.
_PAGE_BYTES = 4096


class OnnxWriter:
    """Nodes and weights as they come; values are known by name, as in ONNX. Equal calls give equal bytes."""

    def __init__(self, data: IO[bytes], *, opset: int, prefix: str = "") -> None:
        """Start with nothing.

        Args:
            data: takes the large weights; the graph will call it `DATA_NAME`.
            opset: version of the standard operators that is written.
            prefix: what names begin with that the caller does not give, lest they be names of a graph that is copied.
        """
        self.opset = opset
        self._prefix = prefix
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._data = data
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def node(self, kind: str, inputs: Sequence[str], *, output: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node of one output; return the output's name."""
        name = output or self._fresh(kind)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike, name: str = "") -> str:
        """Add a weight, a small one only once; return its name."""
        # (not ascontiguousarray, which makes a vector of a scalar)
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
