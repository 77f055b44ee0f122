"""Weights of an ONNX graph, those beside it as they lie in their files."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper


def array_of(tensor: TensorProto, folder: Path) -> npt.NDArray[Any]:
    """Gives a weight; one beside the graph is mapped, not read, so that a large one takes no memory of its own.

    Args:
        tensor: an initializer.
        folder: where the graph lies.

    Raises:
        ValueError: it lies outside the folder, or its file is too short.
        OSError: its file cannot be read.
    """
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    place = (folder / entries["location"]).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise ValueError(f"weight {tensor.name} lies outside the folder of its graph; copy it there")
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    if not all(tensor.dims):
        return np.empty(tuple(tensor.dims), dtype=dtype)
    return np.memmap(place, dtype=dtype, mode="r", offset=int(entries.get("offset", 0)), shape=tuple(tensor.dims))
