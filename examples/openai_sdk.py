"""The official OpenAI package against the gateway: nothing but address and key are changed.

pip install openai numpy
embedmill serve                       # in another terminal
python examples/openai_sdk.py
"""

import os

import numpy as np
from openai import BadRequestError, OpenAI

MODEL = "all-MiniLM-L6-v2"
QUESTION = "what waits?"
DOCUMENTS = ["The queue keeps what nobody has answered yet.", "Selamat pagi, apa kabar?", "Cats sleep all day."]

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
)

# What OpenAI's API has not goes into extra_body: who waits in which lane, and what the texts are for.
stored = client.embeddings.create(model=MODEL, input=DOCUMENTS, extra_body={"input_type": "passage", "lane": "bulk"})
asked = client.embeddings.create(model=MODEL, input=QUESTION, extra_body={"input_type": "query"})

scores = np.array([row.embedding for row in stored.data]) @ np.array(asked.data[0].embedding)
for index in scores.argsort()[::-1]:
    print(f"{scores[index]:.3f} {DOCUMENTS[index]}")
print(stored.usage.total_tokens, "tokens")

# A text that is longer than the model reads is cut, and a header says which. truncate=False refuses it instead.
long = "word " * 1000
raw = client.embeddings.with_raw_response.create(model=MODEL, input=["short", long])
print("cut:", raw.headers["x-embedmill-truncated"])
try:
    client.embeddings.create(model=MODEL, input=["short", long], extra_body={"truncate": False})
except BadRequestError as error:
    print("refused:", error.code)
