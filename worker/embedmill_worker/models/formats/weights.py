"""Choice of the weights to serve among a model's files. No I/O."""

import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from embedmill_worker.models.export.bert import BertConfig

#: Usual names of ONNX files; the first one found is used.
_GRAPHS: Final = ("model.onnx", "onnx/model.onnx", "model_optimized.onnx", "onnx/model_optimized.onnx")
#: ONNX files of other precisions; used only if nothing else is found.
_VARIANT: Final = re.compile(r"(?:onnx/)?model_[^/]*\.onnx")
#: Kinds of them by name, the best for fp32 first: optimized at the same precision, 16 bits, 8 bits.
_KINDS: Final = (re.compile(r"_o[123]\b"), re.compile(r"fp16|float16|_o4\b"), re.compile(r"int8|quantized"))
_WEIGHTS: Final = "model.safetensors"
#: File that marks weights as changes to another model's.
ADAPTER: Final = "adapter_config.json"
#: File that states which of several files holds which tensor.
INDEX: Final = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """An ONNX file to serve as it is, or safetensors to export. Names are relative to the model."""

    #: ONNX file; empty if none is used.
    graph: str = ""
    safetensors: tuple[str, ...] = ()
    #: Architecture to export; None with an ONNX file.
    config: BertConfig | None = None


def choose_weights(
    names: Collection[str],
    *,
    transformer: str = "",
    config: Mapping[str, Any],
    index: Mapping[str, Any],
    precision: str = "",
) -> Weights:
    """Return the weights to serve: safetensors if we export their architecture, otherwise an ONNX file.

    Args:
        names: all files, relative to the model's folder.
        transformer: folder of configuration and safetensors, relative to it: "" or, for example, "0_Transformer".
        config: content of `config.json`.
        index: content of `model.safetensors.index.json`; empty if it is missing.
        precision: requested precision, for the choice among ONNX files of other precisions.

    Raises:
        ValueError: nothing can be served; the message says why and gives a hint.
    """
    if ADAPTER in names:
        raise ValueError(f"{ADAPTER} makes it an adapter of another model; merge both, save that, and name its folder")
    graph = next((place for place in _GRAPHS if place in names), "") or _variant(names, precision)
    safetensors = _safetensors(names, transformer, index)
    if safetensors:
        try:
            parsed = BertConfig.parse(config)
            _refuse_code(config)
            return Weights(safetensors=safetensors, config=parsed)
        except ValueError:
            if not graph:
                raise
    if graph:
        return Weights(graph=graph)
    if {"pytorch_model.bin", f"{transformer}/pytorch_model.bin"} & set(names):
        raise ValueError("pytorch_model.bin is a pickle and is never opened; save the weights as model.safetensors")
    raise ValueError("holds neither model.onnx, onnx/model.onnx nor model.safetensors; copy one of them there")


def _refuse_code(config: Mapping[str, Any]) -> None:
    """Raise ValueError if a model comes with its own code, which may use the weights differently."""
    if isinstance(config.get("auto_map"), Mapping) and "AutoModel" in config["auto_map"]:
        raise ValueError(
            "config.json names code that comes with the model (auto_map, AutoModel) and is never executed; put an ONNX "
            "file (model.onnx) into the folder"
        )


def _safetensors(names: Collection[str], transformer: str, index: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the safetensors files of a model, if any."""
    folder = f"{transformer}/" if transformer else ""
    if f"{folder}{_WEIGHTS}" in names:
        return (f"{folder}{_WEIGHTS}",)
    if f"{folder}{INDEX}" not in names:
        return ()
    stated = index.get("weight_map")
    if not isinstance(stated, dict) or not stated:
        raise ValueError(f"{INDEX} has no weight_map; restore it")
    parts = sorted({str(part) for part in stated.values()})
    for part in parts:
        if "/" in part or f"{folder}{part}" not in names:
            raise ValueError(f"{INDEX} names {part}, which is not in the folder; copy it there")
    return tuple(f"{folder}{part}" for part in parts)


def _variant(names: Collection[str], precision: str) -> str:
    """Return the ONNX file of another precision that is closest to the requested one; "" if none exists."""
    kinds = _KINDS[::-1] if precision == "int8" else _KINDS
    found = [name for name in names if _VARIANT.fullmatch(name)]
    return min(found, key=lambda name: (_is_foreign(name), _rank(name, kinds), name), default="")


def _rank(name: str, kinds: tuple[re.Pattern[str], ...]) -> int:
    return next((rank for rank, kind in enumerate(kinds) if kind.search(name.lower())), len(kinds))


def _is_foreign(name: str) -> bool:
    """Return whether a file is built for another kind of CPU than this one."""
    is_arm = platform.machine().lower() in ("arm64", "aarch64")
    return ("avx" if is_arm else "arm64") in name.lower()
