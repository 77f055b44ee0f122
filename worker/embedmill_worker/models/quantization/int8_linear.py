"""Dense layers in 8 bits as ONNX nodes, with one scale per row of the input.

Rows are tokens, so the layers are batch-invariant. Weights have one scale per column. ONNX Runtime's fused product
takes a single input scale, which is 1 here; rows are scaled after the product.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from embedmill_worker.arrays import Floats
from embedmill_worker.models.export.onnx_writer import FUSED, OnnxWriter

#: Share of an input's outliers that is moved into the weights, from 0 to 1 (SmoothQuant's alpha, Xiao et al. 2023).
#: 0.5 to 0.8 give similar results; see docs/decisions/0006.
_MIGRATION = 0.65
#: Steps per power of two of migration factors, so that other rounding rarely changes a factor.
_FACTOR_STEPS = 8
#: Offset of a GELU's output (never below -0.17) that makes it unsigned before it is quantised.
_GELU_FLOOR = 0.3
#: 255 times the floor is at least this many times the largest value seen at calibration.
_GELU_HEADROOM = 4
#: First opset in which ReduceMax takes its axes as an input.
_AXES_AS_INPUT = 18
#: Minimum divisor of a row, so that a row of zeros stays zero.
_SMALLEST = 1e-6


def migration(largest: Floats, weight: Floats) -> Floats:
    """Return the factors to divide each input channel by, and to multiply its weights by.

    Args:
        largest: largest absolute value of each channel, (inputs,).
        weight: (inputs, outputs).

    Returns:
        Factors (inputs,) with a geometric mean of about 1.
    """
    floor = np.float64(1e-3)
    factors = _MIGRATION * np.log2(np.maximum(largest, floor))
    factors -= (1 - _MIGRATION) * np.log2(np.maximum(np.abs(weight).max(axis=1), floor))
    steps = np.round((factors - factors.mean()) * _FACTOR_STEPS) / _FACTOR_STEPS
    result: Floats = np.exp2(steps).astype(np.float32)
    return result


def linear(writer: OnnxWriter, value: str, weights: Sequence[Floats], outputs: Sequence[str] = ()) -> list[str]:
    """Add products of one value, (rows, inputs), with weights (inputs, outputs).

    Args:
        writer: writer to add the nodes to.
        value: name of the value.
        weights: weights to multiply it with.
        outputs: names of the products; generated if empty.

    Returns:
        Names of the products, (rows, outputs).
    """
    largest = _row_max(writer, writer.node("Abs", [value]))
    floored = writer.node("Max", [largest, writer.constant(_SMALLEST, np.float32)])
    scale = writer.node("Mul", [floored, writer.constant(1 / 127, np.float32)])
    # ONNX Runtime multiplies unsigned by signed bytes, so signed values get a zero point of 128.
    middle = writer.constant(128, np.uint8)
    rows = _vector(writer, scale)
    zeros = writer.node("Expand", [middle, writer.node("Shape", [rows])])
    quantized = writer.node("QuantizeLinear", [value, rows, zeros], axis=0)
    products = []
    for weight, output in zip(weights, outputs or [""] * len(weights), strict=True):
        integers, columns = quantize_columns(weight)
        inputs = _product_inputs(writer, quantized, integers, columns)
        products.append(_scaled(writer, [*inputs, middle], scale, output))
    return products


def gelu_linear(writer: OnnxWriter, value: str, weight: Floats, largest: float) -> tuple[str, Floats]:
    """Add the product of a GELU's output, (rows, inputs), with a weight, using all 256 steps for its one-sided range.

    A row's zero point is a whole number of steps that amounts to the same floor, so it adds a constant to each output.

    Args:
        writer: writer to add the nodes to.
        value: name of the GELU's output.
        weight: (inputs, outputs).
        largest: the largest value seen at calibration.

    Returns:
        The product without that constant, (rows, outputs); and the constant to add, (outputs,).
    """
    floor = max(_GELU_FLOOR, largest * _GELU_HEADROOM / 255)
    one, offset = writer.constant(1, np.float32), writer.constant(floor, np.float32)
    span = writer.node("Add", [_row_max(writer, value), offset])
    steps = writer.node("Div", [writer.constant(255 * floor, np.float32), span])
    # A row without large values would use more than 127 steps below zero; 127 are enough.
    most = writer.constant(127, np.float32)
    steps = writer.node("Min", [writer.node("Max", [writer.node("Floor", [steps]), one]), most])
    scale = writer.node("Div", [offset, steps])
    zeros = _vector(writer, writer.node("Cast", [steps], to=TensorProto.UINT8))
    quantized = writer.node("QuantizeLinear", [value, _vector(writer, scale), zeros], axis=0)
    integers, columns = quantize_columns(weight)
    product = _scaled(writer, _product_inputs(writer, quantized, integers, columns), scale)
    constant = -np.float64(np.float32(floor)) * integers.sum(axis=0, dtype=np.int64) * columns
    return product, constant.astype(np.float32)


def quantize_columns(weight: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Return a weight, (inputs, outputs), as integers from -127 to 127, and a scale per column, (outputs,)."""
    scale = np.abs(weight).max(axis=0) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weight / scale).clip(-127, 127).astype(np.int8), scale


def _product_inputs(writer: OnnxWriter, value: str, integers: npt.NDArray[np.int8], columns: Floats) -> list[str]:
    one = writer.constant(1, np.float32)
    return [value, writer.constant(integers, np.int8), one, writer.constant(columns, np.float32)]


def _scaled(writer: OnnxWriter, inputs: list[str], scale: str, output: str = "") -> str:
    return writer.node("Mul", [writer.node("MatMulIntegerToFloat", inputs, domain=FUSED), scale], output=output)


def _row_max(writer: OnnxWriter, value: str) -> str:
    if writer.opset < _AXES_AS_INPUT:
        return writer.node("ReduceMax", [value], axes=[1], keepdims=1)
    return writer.node("ReduceMax", [value, writer.constant([1], np.int64)], keepdims=1)


def _vector(writer: OnnxWriter, value: str) -> str:
    return writer.node("Reshape", [value, writer.constant([-1], np.int64)])
