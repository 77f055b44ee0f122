"""Draw docs/images/page.png again: the gateway's page over a real `embedmill up` that embeds this project's own docs.

    .venv/bin/python tests/support/page_picture.py [FILE]

Needs the package chromium, and the default model in the data folder of the tests.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from PIL import Image

from embedmill import EmbeddingClient
from embedmill.whereabouts import Whereabouts
from embedmill_worker.settings import DEFAULT_MODEL

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from support.browser import chromium  # noqa: E402
from support.servers import free_port  # noqa: E402
from support.waiting import wait_until  # noqa: E402

PICTURE = REPOSITORY / "docs" / "images" / "page.png"
MAX_BYTES = 150_000

#: Seconds of work that the curves show.
WATCHED_S = 30.0

QUESTION = "What happens when a worker is killed?"
SEARCHED = (
    "Kill a process, a worker or Redis: the work is done, once.",
    "A vector does not depend on its batch.",
    "Texts are sorted by length.",
    "Interactive work goes first.",
    "One copy of the model is shared by all processes.",
    "Selamat pagi, apa kabar hari ini?",
    "A client that hangs up cancels its work.",
)


def paragraphs() -> list[str]:
    """Return the paragraphs of this project's docs."""
    pages = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
    found = [part for page in pages for part in re.split(r"\n\s*\n", page.read_text("utf-8"))]
    return [" ".join(part.split()) for part in found if len(part) > 60]


def batch_file(texts: list[str]) -> bytes:
    """Return a file of requests, as OpenAI's batches are."""
    rows = [
        {
            "custom_id": f"paragraph-{n}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": DEFAULT_MODEL, "input": text},
        }
        for n, text in enumerate(texts)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def ask_now_and_then(client: EmbeddingClient, texts: list[str], is_over: threading.Event) -> None:
    """Embed a few texts in the interactive lane, as a web application does."""
    number = 0
    while not is_over.wait(0.2 + (number % 7) / 20):
        client.embed([text[:200] for text in texts[number % 50 :][: 1 + number % 4]])
        number += 1


def draw(url: str, client: EmbeddingClient, texts: list[str], path: Path) -> None:
    """Submit work, and take the picture while it is under way."""
    is_over = threading.Event()
    asking = threading.Thread(target=ask_now_and_then, args=(client, texts, is_over))
    asking.start()
    try:
        for size in (100, 8 * len(texts)):
            answer = httpx.post(f"{url}/v1/jobs", json={"input": (texts * 8)[:size]}, timeout=60)
            answer.raise_for_status()
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1120, "height": 900}, color_scheme="light")
            page.goto(url)
            page.locator("#lanes tr").first.wait_for()
            if page.locator("#batches-part").is_visible():
                file = {"name": "paragraphs.jsonl", "mimeType": "", "buffer": batch_file((texts * 8)[:8_000])}
                page.locator("#file").set_input_files(file)
            page.locator("#texts").fill("\n".join(SEARCHED))
            page.locator("#question").fill(QUESTION)
            page.locator("#search-button").click()
            page.locator("#hits li").first.wait_for()
            page.evaluate("document.activeElement.blur(); document.getElementById('texts').scrollTop = 0")
            time.sleep(WATCHED_S)
            path.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=path, full_page=True)
    finally:
        is_over.set()
        asking.join()
    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MAX_BYTES, f"{path} has {path.stat().st_size} bytes"


def is_healthy(url: str) -> bool:
    """Return whether a worker serves a model through the gateway."""
    try:
        return httpx.get(f"{url}/health").is_success
    except httpx.TransportError:
        return False


def main(path: Path) -> None:
    """Run a queue of its own, in a folder that goes away."""
    models = Path(os.environ.get("EMBEDMILL_TEST_DATA_DIR", REPOSITORY / ".embedmill"))
    with tempfile.TemporaryDirectory() as folder:
        for part in models.iterdir():
            Path(folder, part.name).symlink_to(part)
        port, env = free_port(), {**os.environ, "EMBEDMILL_DATA_DIR": folder}
        command = [sys.executable, "-m", "embedmill_worker.cli", "up", "--port", str(port), "--grpc-port", "0"]
        process = subprocess.Popen(command, env=env)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_healthy(url), "embedmill up is not ready")
            running = Whereabouts.read(Path(folder))
            assert running is not None
            with EmbeddingClient(running.redis_url) as client:
                draw(url, client, paragraphs(), path)
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
