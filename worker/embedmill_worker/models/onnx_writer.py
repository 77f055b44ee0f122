"""Builds an ONNX graph node by node, its large weights in a file beside it."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from embedmill_worker.models.made import DATA_NAME

#: Domain of ONNX Runtime's own operators.
FUSED = "com.microsoft"
#: Weights from this size on stand in the data file, where ONNX Runtime maps them.
_DATA_FROM_BYTES = 1024
#: Weights begin on a page of their own, as mapping wants it.
_PAGE_BYTES = 4096


class OnnxWriter:
    """Nodes and weights as they come; values are known by name, as in ONNX. Equal calls give equal bytes."""

    def __init__(self, data: BinaryIO, *, opset: int) -> None:
        """Start with nothing; large weights go to `data`, which the graph will call `DATA_NAME`."""
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._data = data
        self._small: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def node(self, kind: str, inputs: Sequence[str], *, output: str = "", domain: str = "", **attributes: Any) -> str:
        """Adds a node of one output; returns the output's name."""
        name = output or self._fresh(kind)
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike, name: str = "") -> str:
        """Adds a weight, a small one only once; returns its name."""
        # (not ascontiguousarray, which makes a vector of a scalar)
        array = np.asarray(value, dtype=np.dtype(dtype).newbyteorder("<"), order="C")
        raw = array.tobytes() if array.nbytes < _DATA_FROM_BYTES else b""
        key = (array.dtype.str, array.shape, raw)
        if not name and key[2] and key in self._small:
            return self._small[key]
        name = name or self._fresh("weight")
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        if array.nbytes < _DATA_FROM_BYTES:
            tensor.raw_data = raw
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
        return f"int8.{kind}.{self._count}"
