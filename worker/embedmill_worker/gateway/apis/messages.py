"""The messages of ``embedding.proto`` as classes. A test holds them to what protoc makes of that file.

They are built here because code that protoc generates is bound to one major version of protobuf's runtime.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "embedding"
SERVICE: Final = f"{PACKAGE}.EmbeddingService"
METHOD: Final = "GetEmbeddings"

_FIELD: Final = descriptor_pb2.FieldDescriptorProto


def file_descriptor() -> descriptor_pb2.FileDescriptorProto:
    """Return the description of ``embedding.proto``."""
    file = descriptor_pb2.FileDescriptorProto(name="embedding.proto", package=PACKAGE, syntax="proto3")
    request = file.message_type.add(name="EmbeddingRequest")
    request.oneof_decl.add(name="input")
    request.field.add(name="single_text", number=1, label=_FIELD.LABEL_OPTIONAL, type=_FIELD.TYPE_STRING, oneof_index=0)
    request.field.add(
        name="batch_texts",
        number=2,
        label=_FIELD.LABEL_OPTIONAL,
        type=_FIELD.TYPE_MESSAGE,
        type_name=".embedding.TextBatch",
        oneof_index=0,
    )
    _repeated(file, "TextBatch", "texts", _FIELD.TYPE_STRING)
    _repeated(file, "EmbeddingResponse", "vectors", _FIELD.TYPE_MESSAGE, ".embedding.Vector")
    _repeated(file, "Vector", "values", _FIELD.TYPE_FLOAT)
    service = file.service.add(name="EmbeddingService")
    service.method.add(
        name=METHOD, input_type=".embedding.EmbeddingRequest", output_type=".embedding.EmbeddingResponse"
    )
    for message in file.message_type:
        for field in message.field:
            field.json_name = "".join(part.title() if i else part for i, part in enumerate(field.name.split("_")))
    return file


def _repeated(file: Any, message: str, name: str, kind: Any, type_name: str | None = None) -> None:
    field = file.message_type.add(name=message).field.add(name=name, number=1, label=_FIELD.LABEL_REPEATED, type=kind)
    if type_name is not None:
        field.type_name = type_name


#: A pool of this package alone, because a client's tests may load another file of the same name.
POOL: Final = descriptor_pool.DescriptorPool()
POOL.Add(file_descriptor())

_CLASSES: Final = {
    name: message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
    for name in ("EmbeddingRequest", "EmbeddingResponse", "TextBatch", "Vector")
}
EmbeddingRequest: Final[Any] = _CLASSES["EmbeddingRequest"]
EmbeddingResponse: Final[Any] = _CLASSES["EmbeddingResponse"]
Vector: Final[Any] = _CLASSES["Vector"]
