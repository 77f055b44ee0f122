"""The page at `/` in a real browser: what people see in each state, and what nobody may do through it."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from embedmill import EmbeddingClient
from support import gateway as gateways
from support.breakable import BreakableValkey
from support.browser import PATIENCE_MS, chromium

MODEL = "all-MiniLM-L6-v2"
KEY, OTHER_KEY = "sk-open-sesame-0001", "sk-open-sesame-9999"

#: Where the states are kept as pictures, if one wants to look at them.
PICTURES = os.environ.get("EMBEDMILL_TEST_PICTURES")

#: What Chromium says of each answer that is a refusal; the page shows those itself.
REFUSALS = re.compile(
    r"Failed to load resource: (the server responded with a status of (401|404|409|500|503)|net::ERR_)"
)

EVIL = '<img src=x onerror="window.hacked=1">"\'`</script><script>window.hacked=1</script>javascript:alert(1)'


@dataclass
class Visit:
    """A tab, and what it did that it should not."""

    page: Any
    url: str
    faults: list[str] = field(default_factory=list)
    #: The paths that were asked for.
    asked: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Notes errors, violations of the policy, and requests to elsewhere."""
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._request)

    def _console(self, message) -> None:
        if message.type in ("error", "warning") and not REFUSALS.match(message.text):
            self.faults.append(message.text)

    def _request(self, request) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("data", "blob"):
            return
        self.asked.append(address.path)
        if f"{address.scheme}://{address.netloc}" != self.url:
            self.faults.append(f"a request to {request.url}")

    def open(self) -> Any:
        """Opens the page."""
        self.page.goto(self.url)
        return self.page

    def look(self, name: str) -> None:
        """Checks that nothing is cut off on a phone and on a desk, in both colours; keeps pictures if asked to."""
        for width in (400, 1280):
            self.page.set_viewport_size({"width": width, "height": 900})
            assert self.page.evaluate("document.documentElement.scrollWidth") == width, name
            for scheme in ("dark", "light") if PICTURES else ():
                self.page.emulate_media(color_scheme=scheme)
                Path(PICTURES).mkdir(parents=True, exist_ok=True)
                self.page.screenshot(path=Path(PICTURES, f"{name}-{width}-{scheme}.png"), full_page=True)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser):
    """Opens tabs; each ends without a fault."""
    made = []

    def new(url: str, **options) -> Visit:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        context.set_default_timeout(PATIENCE_MS)
        found = Visit(context.new_page(), url)
        found.watch()
        made.append((context, found))
        return found

    yield new
    for context, found in made:
        assert found.page.evaluate("window.hacked") is None
        context.close()
        assert found.faults == []


@pytest.fixture(scope="module")
def site(module_mill, tmp_path_factory):
    """The address of a gateway before a queue of its own: that of all tests may be at work."""
    gateway = gateways.start(module_mill.env, tmp_path_factory.mktemp("site"))
    yield gateway.url
    gateway.stop()


def submit(site, texts):
    """Return the id of a job over HTTP: the page shows those alone."""
    answer = httpx.post(f"{site}/v1/jobs", json={"input": texts}, timeout=60)
    return answer.raise_for_status().json()["id"]


@pytest.fixture(scope="module")
def queue(module_mill):
    mill = module_mill
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace, timeout_s=120) as client:
        yield client


@dataclass
class Lonely:
    """A gateway with keys before a Redis of its own, without a worker."""

    url: str
    valkey: BreakableValkey
    client: EmbeddingClient


@pytest.fixture(scope="module")
def lonely(valkey_binary, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lonely")
    with BreakableValkey(folder / "valkey", persistent=True) as valkey:
        keys = folder / "keys.txt"
        keys.write_text(f"{KEY} name=nightly lane=bulk tokens_per_minute=600000\n")
        env = {**os.environ, "EMBEDMILL_REDIS_URL": valkey.url}
        gateway = gateways.start(env, folder, "--api-keys-file", str(keys), ready=False)
        with EmbeddingClient(valkey.url) as client:
            yield Lonely(gateway.url, valkey, client)
        gateway.stop()


def expect(what):
    """Playwright's, imported when a browser runs."""
    from playwright.sync_api import expect as found

    return found(what)


def enter_key(page, key):
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use the key").click()


# --- five states ----------------------------------------------------------------------------------------------------


def test_an_idle_queue_is_ready_and_a_search_ranks_as_the_vectors_do(visit, site, queue):
    tab = visit(site)
    page = tab.open()
    expect(page.locator("#state")).to_have_text("Ready, nothing waits")
    expect(page.locator("#workers")).to_contain_text(MODEL)
    expect(page.locator("#lanes tr")).to_have_count(2)
    tab.look("empty")

    texts, question = ["Kucing tidur sepanjang hari.", "Cats sleep all day.", "The bridge is closed."], "sleepy animals"
    page.get_by_label("Texts, one a line").fill("\n".join([*texts, "", texts[0]]))
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Search").click()
    hits = page.locator("#hits li")
    expect(hits).to_have_count(3)
    vectors = queue.embed(texts, input_type="passage")
    scores = vectors @ queue.embed([question], input_type="query")[0]
    order = np.argsort(-scores)
    shown = [(row.locator(".score").inner_text(), row.locator("div > span").first.inner_text()) for row in hits.all()]
    assert shown == [(f"{scores[i]:.3f}", texts[i]) for i in order]
    expect(page.locator("#search-said")).to_contain_text("4 texts embedded in")
    page.get_by_label("Question").fill("a way across the river")
    page.keyboard.press("Enter")
    expect(page.locator("#search-said")).to_contain_text("1 text embedded in")  # the others are kept
    expect(hits.first).to_contain_text(texts[2])
    tab.look("searched")


def test_work_under_way_is_shown_and_can_be_cancelled(visit, site):
    job = submit(site, ["word " * 200 + str(n) for n in range(3_000)])
    try:
        tab = visit(site)
        page = tab.open()
        expect(page.locator("#state")).to_have_text("Working")
        row = page.locator("#jobs tr").filter(has_text=job)
        expect(row).to_contain_text("running")
        expect(row).to_contain_text("of 3,000 texts")
        expect(page.locator("#rate")).to_have_text(re.compile(r"^[1-9][\d,]* tokens/s|^[1-9][\d,]*tokens/s"))
        expect(row).not_to_contain_text("0 of 3,000")
        tab.look("working")
        cancel = row.get_by_role("button")
        cancel.focus()
        shown = row.inner_text()
        expect(row).not_to_have_text(shown, use_inner_text=True)
        expect(cancel).to_be_focused()  # drawing again takes it from nobody
        cancel.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text(job)
        dialog.get_by_role("button", name="Cancel it").click()
        expect(row).to_contain_text("cancelled")
        expect(row.get_by_role("button")).to_be_hidden()
        expect(page.locator("#state")).to_have_text("Ready, nothing waits")
    finally:
        httpx.delete(f"{site}/v1/jobs/{job}", timeout=60)


def test_a_key_is_asked_for_a_wrong_one_is_refused_and_without_a_worker_the_page_says_what_to_start(visit, lonely):
    tab = visit(lonely.url)
    page = tab.open()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This gateway asks for an API key.")
    expect(page.locator("#lanes-part")).to_be_hidden()
    expect(page.locator("#key")).to_be_focused()
    enter_key(page, "schlüssel")
    expect(dialog).to_contain_text("ASCII")
    enter_key(page, OTHER_KEY)
    expect(dialog).to_contain_text("refused the key")
    expect(page.locator("#state")).to_have_text("Key refused")
    assert page.evaluate("sessionStorage.length") == 0
    tab.look("refused")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    tab.look("refused-behind")
    page.get_by_role("button", name="Enter a key").click()
    enter_key(page, KEY)

    expect(page.locator("#state")).to_have_text("No worker")
    expect(page.locator("#notice")).to_contain_text("embedmill worker")
    expect(page.locator("#caller")).to_have_text("Key nightly · bulk lane only · 600,000 tokens a minute")
    job = lonely.client.submit(["one", "two"], model="org/model@1.0")
    expect(page.locator("#notice")).to_contain_text("2 texts wait")
    expect(page.locator("#notice-command")).to_have_text("embedmill worker --model org/model@1.0")
    tab.look("no-worker")
    job.cancel()

    page.reload()  # the key is kept in this tab
    expect(page.locator("#state")).to_have_text("No worker")
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.get_by_role("button", name="Forget the key").click()
    expect(dialog).to_contain_text("asks for an API key")
    assert page.evaluate("sessionStorage.length") == 0


def test_while_redis_is_away_the_page_says_so_and_goes_on_by_itself(visit, lonely):
    tab = visit(lonely.url)
    page = tab.open()
    enter_key(page, KEY)
    expect(page.locator("#state")).to_have_text("No worker")
    lonely.valkey.kill()
    try:
        expect(page.locator("#state")).to_have_text("Redis is away")
        expect(page.locator("#notice")).to_contain_text("Next try in")
        expect(page.locator("#lanes-part")).to_be_visible()  # as it was
        tab.look("redis-away")
    finally:
        lonely.valkey.restart()
    page.get_by_role("button", name="Try now").click()
    expect(page.locator("#state")).to_have_text("No worker")
    expect(page.locator("#notice-when")).to_have_text("")


# --- files and batches ----------------------------------------------------------------------------------------------


def lines_of(*inputs):
    rows = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/embeddings", "body": {"model": MODEL, "input": text}}
        for n, text in enumerate(inputs)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name));
  const event = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
  document.getElementById("drop").dispatchEvent(event);
}"""


def test_a_dropped_file_becomes_a_batch_whose_vectors_can_be_saved(visit, site, queue, tmp_path):
    texts = ["Selamat pagi", "good morning", "a bridge"]
    tab = visit(site)
    page = tab.open()
    expect(page.locator("#batches-part")).to_be_visible()
    page.evaluate(DROP, ["words.jsonl", lines_of(*texts).decode()])
    row = page.locator("#batches tr").filter(has_text="words.jsonl")
    expect(row).to_contain_text("completed")
    expect(row).to_contain_text("3 of 3 requests")
    with page.expect_download() as saved:
        row.get_by_role("link", name="Save output").click()
    saved.value.save_as(tmp_path / "output.jsonl")
    rows = map(json.loads, (tmp_path / "output.jsonl").read_text().splitlines())
    found = {each["custom_id"]: each["response"]["body"]["data"][0]["embedding"] for each in rows}
    vectors = np.array([found[f"line-{n}"] for n in range(3)], dtype=np.float32)
    assert (vectors == queue.embed(texts)).all()

    # A name with markup is shown as it is, and what is wrong with a file is said.
    page.locator("#file").set_input_files({"name": f"{EVIL[:40]}.jsonl", "mimeType": "", "buffer": b"{not json\n"})
    wrong = page.locator("#batches-part").filter(has_text=EVIL[:40])
    expect(wrong).to_contain_text("failed")
    tab.look("batches")


# --- what a page must not do ----------------------------------------------------------------------------------------


def answer(page, path, body, status=200):
    page.route(re.compile(rf"{path}(\?.*)?$"), lambda route: route.fulfill(status=status, json=body))


def hostile_status():
    return {
        "object": "status",
        "version": EVIL,
        "models": [
            {"name": name, "fingerprint": EVIL, "dimension": 2, "max_tokens": 9, "precision": EVIL, "served": True}
            for name in (EVIL, "other")
        ],
        "workers": [{"name": EVIL, "state": EVIL, "children": 1, "models": [EVIL]}],
        "lanes": [
            *(
                {
                    "model": EVIL,
                    "lane": EVIL,
                    "texts": 3,
                    "tokens": 9,
                    "oldest_age_s": 1e9,
                    "tokens_done": 1,
                    "tokens_per_s": 1,
                },
            ),
        ],
        "caller": {"name": EVIL, "lanes": [EVIL], "tokens_per_minute": 5},
    }


def test_names_and_messages_of_others_are_text_and_never_markup(visit, lonely):
    tab = visit(lonely.url)
    page = tab.page
    job = {"id": EVIL, "object": "job", "status": EVIL, "model": EVIL, "lane": EVIL, "created_at": "soon", "links": {}}
    error = {"code": EVIL, "message": EVIL, "line": EVIL}
    batch = {"id": EVIL, "status": "failed", "metadata": {"name": EVIL}, "errors": {"data": [error]}, "created_at": 1}
    batch |= {"output_file_id": "../../" + EVIL, "error_file_id": EVIL, "request_counts": None}
    listed = {"object": "list", "has_more": True}
    answer(page, "/v1/status", hostile_status())
    answer(page, "/v1/jobs", listed | {"data": [job]})
    answer(page, "/v1/batches", listed | {"data": [batch]})
    answer(page, "/v1/embeddings", {"error": {"message": EVIL}}, status=404)
    tab.open()
    expect(page.locator("#batches")).to_contain_text(EVIL)
    for part in ("#jobs", "#lanes", "#workers", "#version"):
        expect(page.locator(part)).to_contain_text(EVIL)
    expect(page.locator("#notice-command")).to_contain_text("'")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#search-said")).to_have_text(EVIL)
    assert page.locator("img, script").count() == 1
    links = page.locator("#batches a").evaluate_all("nodes => nodes.map((node) => new URL(node.href).pathname)")
    assert all(re.fullmatch(r"/v1/files/[^/]+/content", link) for link in links) and len(links) == 2
    tab.look("hostile")


def test_a_model_without_a_worker_and_a_route_that_fails_hide_nothing_else(visit, lonely):
    tab = visit(lonely.url)
    page = tab.page
    lane = {"lane": "bulk", "texts": 1, "tokens": 9, "oldest_age_s": 1.0, "tokens_done": 1, "tokens_per_s": 1.0}
    status = hostile_status() | {
        "workers": [{"name": "w", "state": "ready", "children": 1, "models": ["a"]}],
        "lanes": [lane | {"model": "a"}, lane | {"model": "it's b"}],
    }
    answer(page, "/v1/status", status)
    answer(page, "/v1/batches", {"error": {"message": "The lists are broken"}}, status=500)
    job = {"id": "job-1", "object": "job", "status": "queued", "model": "a", "lane": "bulk", "created_at": 1}
    answer(page, "/v1/jobs", {"object": "list", "has_more": False, "data": [job]})
    answer(page, "/v1/jobs/job-1", {"error": {"message": "The job is over"}}, status=409)
    tab.open()
    expect(page.locator("#state")).to_have_text("Work without a worker")
    expect(page.locator("#notice")).to_contain_text("No worker serves it's b.")
    expect(page.locator("#notice-command")).to_have_text(r"embedmill worker --model 'it'\''s b'")
    expect(page.locator("#batches-note")).to_be_visible()
    expect(page.locator("#batches-note")).to_have_text("The lists are broken")
    page.get_by_role("button", name="Cancel job job-1").click()
    page.get_by_role("button", name="Cancel it").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("The job is over")
    dialog.get_by_role("button", name="Keep it").click()
    expect(dialog).to_be_hidden()


def test_the_policy_stops_what_a_page_must_not_run(visit, lonely):
    tab = visit(lonely.url)
    page = tab.open()
    expect(page.locator("#key")).to_be_focused()
    seen = page.evaluate(
        """() => new Promise((done) => {
          const broken = [];
          document.addEventListener("securitypolicyviolation", (event) => broken.push(event.effectiveDirective));
          const script = document.createElement("script");
          try { script.textContent = "window.hacked = 1"; document.body.append(script); } catch { broken.push("text"); }
          try { document.body.innerHTML += "<p>"; } catch { broken.push("innerHTML"); }
          const image = new Image();
          image.src = "http://localhost:9/";
          fetch("http://localhost:9/").catch(() => setTimeout(() => done(broken), 0));
        })"""
    )
    assert {"innerHTML", "img-src", "connect-src"} <= set(seen)
    tab.faults.clear()  # they are what this test is for


def test_a_key_goes_with_saved_files_too_and_to_no_address(visit, lonely, tmp_path):
    tab = visit(lonely.url)
    page = tab.page
    batch = {"id": "batch_1", "status": "completed", "output_file_id": "file-1", "created_at": 1}
    batch |= {"request_counts": {"total": 1, "completed": 1, "failed": 0}}
    answer(page, "/v1/batches", {"object": "list", "data": [batch], "has_more": False})
    sent = []

    def content(route):
        sent.append(route.request.headers.get("authorization"))
        route.fulfill(body="{}\n")

    page.route("**/v1/files/file-1/content", content)
    tab.open()
    enter_key(page, KEY)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save output of batch batch_1").click()
    saved.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_text() == "{}\n"
    assert sent == [f"Bearer {KEY}"]
    assert saved.value.suggested_filename == "batch_1-output.jsonl"
    assert KEY not in page.content()
    assert not [path for path in tab.asked if KEY in path]


# --- polling, by a clock that the test turns ------------------------------------------------------------------------


def test_a_hidden_tab_asks_for_nothing_and_pauses_grow_while_redis_is_away(visit, lonely):
    tab = visit(lonely.url)
    page = tab.page
    page.add_init_script(
        "let hidden = false; Object.defineProperty(document, 'hidden', {get: () => hidden});"
        "window.hide = (is) => { hidden = is; document.dispatchEvent(new Event('visibilitychange')); };"
    )
    page.clock.install()
    page.clock.pause_at(4_000_000_000_000)
    state = {"status": 503}

    def status(route):
        if state["status"] == 0:
            return route.abort()
        if state["status"] == 503:
            return route.fulfill(status=503, json={"error": {"message": "The queue does not answer; try again"}})
        return route.fulfill(json=hostile_status() | {"lanes": []})

    page.route("**/v1/status", status)
    for other in ("jobs", "batches", "files"):  # this gateway asks for a key, which is another test's
        page.route(f"**/v1/{other}*", lambda route: route.fulfill(status=404, json={}))

    def polls():
        return tab.asked.count("/v1/status")

    tab.open()
    for number, pause_s in enumerate((2, 4, 8, 16, 30, 30), 1):
        expect(page.locator("#notice-when")).to_have_text(f"Next try in {pause_s} s.")
        assert polls() == number
        page.clock.run_for((pause_s - 0.5) * 1000)
        assert polls() == number
        with page.expect_response("**/v1/status"):
            page.clock.run_for(600)
    state["status"] = 0
    page.get_by_role("button", name="Try now").click()
    page.clock.run_for(100)
    expect(page.locator("#state")).to_have_text("The gateway is away")
    state["status"] = 200
    page.get_by_role("button", name="Try now").click()
    page.clock.run_for(100)
    expect(page.locator("#notice-when")).to_have_text("")
    expect(page.locator("#workers-part")).to_be_visible()
    before = polls()
    page.evaluate("hide(true)")
    page.clock.run_for(60_000)
    assert polls() == before
    with page.expect_response("**/v1/status"):
        page.evaluate("hide(false)")
        page.clock.run_for(100)


# --- without a mouse ------------------------------------------------------------------------------------------------

FOCUSED = """() => {
  const node = document.activeElement, style = getComputedStyle(node.closest(".drop") ?? node);
  return [node.id || node.className || node.tagName, style.outlineStyle, parseFloat(style.outlineWidth)];
}"""

UNLABELLED = """() => [...document.querySelectorAll("input, textarea, select")]
  .filter((node) => !node.labels.length).map((node) => node.id)"""


def test_everything_can_be_done_by_keyboard_and_the_focus_is_seen(visit, site):
    tab = visit(site, reduced_motion="reduce")
    page = tab.open()
    expect(page.locator("#batches-part")).to_be_visible()
    reached = []
    while len(reached) < 12:
        page.keyboard.press("Tab")
        name, style, width = page.evaluate(FOCUSED)
        if name == "BODY":
            break
        assert (style, width >= 2) == ("solid", True), name
        reached.append(name)
        if name == "question":
            page.keyboard.type("Who works?")
            page.keyboard.press("Enter")
            expect(page.locator("#hits li")).not_to_have_count(0)
    wanted = ["skip", "texts", "question", "search-button", "file"]
    assert [name for name in reached if name in wanted] == wanted
    assert page.evaluate(UNLABELLED) == []
