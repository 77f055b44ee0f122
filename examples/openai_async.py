"""Many requests at a time with the official OpenAI package; the gateway puts small ones into jobs together.

pip install openai
embedmill serve                       # in another terminal
python examples/openai_async.py
"""

import asyncio
import os

from openai import AsyncOpenAI

MODEL = "all-MiniLM-L6-v2"


async def main() -> None:
    client = AsyncOpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "unused"),
        max_retries=5,  # a gateway that is busy says when to come back, and the package does
    )
    async with client:
        texts = [f"text number {number}" for number in range(64)]
        replies = await asyncio.gather(*(client.embeddings.create(model=MODEL, input=text) for text in texts))
        print(len(replies), "vectors of", len(replies[0].data[0].embedding), "numbers")


asyncio.run(main())
