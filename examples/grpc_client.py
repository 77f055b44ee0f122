"""A gRPC client of embedding.EmbeddingService, as the Rust embedding service's are.

pip install grpcio grpcio-tools numpy
python -m grpc_tools.protoc -I worker/embedmill_worker/gateway/apis --python_out=. --grpc_python_out=. embedding.proto
embedmill serve                       # in another terminal
PYTHONPATH=. python examples/grpc_client.py
"""

import os

import grpc
import numpy as np
from embedding_pb2 import EmbeddingRequest, TextBatch
from embedding_pb2_grpc import EmbeddingServiceStub

DOCUMENTS = ["The queue keeps what nobody has answered yet.", "Selamat pagi, apa kabar?", "Cats sleep all day."]

# The answer may be larger than the 4 MiB that gRPC takes unless it is told otherwise: 2,048 vectors of 768 numbers.
options = [("grpc.max_receive_message_length", 64 << 20)]
key = os.environ.get("GATEWAY_KEY")
metadata = [("authorization", f"Bearer {key}")] if key else []

with grpc.insecure_channel(os.environ.get("GATEWAY_GRPC", "127.0.0.1:6010"), options) as channel:
    stub = EmbeddingServiceStub(channel)
    batch = EmbeddingRequest(batch_texts=TextBatch(texts=DOCUMENTS))
    vectors = np.array([row.values for row in stub.GetEmbeddings(batch, timeout=60, metadata=metadata).vectors])
    one = stub.GetEmbeddings(EmbeddingRequest(single_text="what waits?"), timeout=60, metadata=metadata)
    scores = vectors @ np.array(one.vectors[0].values)
    for index in scores.argsort()[::-1]:
        print(f"{scores[index]:.3f} {DOCUMENTS[index]}")
    try:
        stub.GetEmbeddings(EmbeddingRequest(), timeout=60, metadata=metadata)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
