"""Hugging Face's InferenceClient against the gateway's route of text-embeddings-inference.

pip install huggingface_hub numpy
embedmill serve                       # in another terminal
python examples/inference_client.py
"""

import os

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

DOCUMENTS = ["The queue keeps what nobody has answered yet.", "Selamat pagi, apa kabar?", "Cats sleep all day."]

client = InferenceClient(
    os.environ.get("GATEWAY_URL", "http://127.0.0.1:8080"), token=os.environ.get("GATEWAY_KEY", "unused")
)
vectors = client.feature_extraction(DOCUMENTS, prompt_name="passage")
(question,) = client.feature_extraction("what waits?", prompt_name="query")
scores = vectors @ question
for index in scores.argsort()[::-1]:
    print(f"{scores[index]:.3f} {DOCUMENTS[index]}")

# As there, a text that is too long is refused unless truncate=True.
try:
    client.feature_extraction("word " * 1000)
except HfHubHTTPError as error:
    print("refused:", error.response.status_code)
