"""Ollama's Python client against the gateway.

pip install ollama numpy
embedmill serve                       # in another terminal
python examples/ollama_client.py
"""

import os

import numpy as np
from ollama import Client, ResponseError

DOCUMENTS = ["The queue keeps what nobody has answered yet.", "Selamat pagi, apa kabar?", "Cats sleep all day."]

client = Client(os.environ.get("OLLAMA_HOST", "http://127.0.0.1:8080"))
model = client.list().models[0].model
vectors = np.array(client.embed(model, [*DOCUMENTS, "what waits?"]).embeddings)
scores = vectors[:-1] @ vectors[-1]
for index in scores.argsort()[::-1]:
    print(f"{scores[index]:.3f} {DOCUMENTS[index]}")

try:
    client.embed("nobody", "a text")
except ResponseError as error:
    print(error.status_code, error.error)
