"""LangChain's OpenAIEmbeddings against the gateway.

pip install langchain-openai
embedmill serve                       # in another terminal
python examples/langchain_openai_class.py
"""

import os

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

DOCUMENTS = ["The queue keeps what nobody has answered yet.", "Selamat pagi, apa kabar?", "Cats sleep all day."]

embeddings = OpenAIEmbeddings(
    model="all-MiniLM-L6-v2",
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
    # Else it sends tokens of OpenAI's own models, which mean something else to this one.
    check_embedding_ctx_length=False,
)

store = InMemoryVectorStore.from_texts(DOCUMENTS, embeddings)
for document, score in store.similarity_search_with_score("what waits?", k=3):
    print(f"{score:.3f} {document.page_content}")
