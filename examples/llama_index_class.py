"""LlamaIndex's OpenAIEmbedding against the gateway.

pip install llama-index-embeddings-openai
embedmill serve                       # in another terminal
python examples/llama_index_class.py
"""

import os

from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import SimpleVectorStore, VectorStoreQuery
from llama_index.embeddings.openai import OpenAIEmbedding

DOCUMENTS = ["The queue keeps what nobody has answered yet.", "Selamat pagi, apa kabar?", "Cats sleep all day."]

embedding = OpenAIEmbedding(
    model_name="all-MiniLM-L6-v2",  # not model=, which takes OpenAI's own names alone
    api_base=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
    embed_batch_size=256,
)

vectors = embedding.get_text_embedding_batch(DOCUMENTS)
nodes = [TextNode(id_=str(i), text=text, embedding=vectors[i]) for i, text in enumerate(DOCUMENTS)]
store = SimpleVectorStore()
store.add(nodes)
query = VectorStoreQuery(query_embedding=embedding.get_query_embedding("what waits?"), similarity_top_k=3)
found = store.query(query)
for name, score in zip(found.ids, found.similarities, strict=True):
    print(f"{score:.3f} {DOCUMENTS[int(name)]}")
