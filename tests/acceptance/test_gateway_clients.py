"""The gateway as clients know it: each is the official package, with nothing changed but the address and the key."""

import asyncio
import base64
import gc
import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import time
import warnings
from http.client import HTTPConnection

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tokenizers import Tokenizer

import embedmill
from embedmill import EmbeddingClient
from embedmill.protocol.keys import Keyspace
from embedmill.settings import ClientSettings
from embedmill_worker.gateway.apis import messages
from embedmill_worker.models import resolve
from support.servers import plain_redis
from support.waiting import status_of, wait_until


class Package:
    """A client's package, imported on first use: they take seconds, in every process that tests."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        if attribute.startswith("_"):  # pytest looks for such in all that a module holds
            raise AttributeError(attribute)
        with warnings.catch_warnings():  # of what these packages import themselves
            warnings.simplefilter("ignore")
            return getattr(importlib.import_module(self._name), attribute)


huggingface_hub, ollama, openai = map(Package, ("huggingface_hub", "ollama", "openai"))
langchain, llama_index = map(Package, ("langchain_openai", "llama_index.embeddings.openai"))
hub_errors = Package("huggingface_hub.errors")

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["Selamat pagi", "good morning", "A queue keeps what nobody has answered yet.", "日本語 и данные 😀"]
LONG = "word " * 1_000
MAX_TOKENS = 256

#: Seconds; generous, so that a busy machine fails no test.
PATIENCE_S = 120.0


#: Some of these clients leave their connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def collected():
    """Collects what a test's clients leave, while nobody complains of it."""
    yield
    gc.collect()


def same_bits(found, wanted) -> bool:
    """Whether numbers of JSON, or an array, are these float32."""
    rows = np.asarray(found, dtype=np.float64).astype(np.float32)
    return rows.shape == wanted.shape and bool((rows.view(np.uint32) == wanted.view(np.uint32)).all())


@pytest.fixture(scope="module")
def queue(mill):
    """Our own client, whose vectors are those that every other client must get."""
    with EmbeddingClient(mill.redis_url, MODEL, namespace=mill.namespace, timeout_s=PATIENCE_S) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(queue, data_dir):
    """The model's own."""
    found = Tokenizer.from_file(str(resolve(MODEL, data_dir=data_dir, download=False).tokenizer))
    found.no_truncation()
    found.no_padding()
    return found


def openai_of(gateway, **options):
    return openai.OpenAI(
        **{"base_url": gateway.openai_url, "api_key": "unused", "max_retries": 0, "timeout": PATIENCE_S} | options
    )


@pytest.fixture
def sdk(gateway):
    """The official OpenAI client."""
    with openai_of(gateway) as client:
        yield client


# --- openai -------------------------------------------------------------------------------------------------------


def test_openai_a_string_a_list_and_both_encodings_have_the_queues_bits(sdk, queue):
    wanted = queue.embed(TEXTS)

    alone = sdk.embeddings.create(model=MODEL, input=TEXTS[0])
    assert same_bits([row.embedding for row in alone.data], wanted[:1])
    assert (alone.object, alone.model, alone.data[0].object, alone.data[0].index) == ("list", MODEL, "embedding", 0)

    several = sdk.embeddings.create(model=MODEL, input=TEXTS)
    assert same_bits([row.embedding for row in several.data], wanted)
    assert [row.index for row in several.data] == list(range(len(TEXTS)))

    floats = sdk.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert same_bits([row.embedding for row in floats.data], wanted)

    packed = sdk.embeddings.create(model=MODEL, input=TEXTS, encoding_format="base64")
    raw = [np.frombuffer(base64.b64decode(row.embedding), "<f4") for row in packed.data]
    assert same_bits(raw, wanted)


def test_openai_dimensions_and_usage(sdk, queue):
    reply = queue.submit([*TEXTS, LONG], lane="interactive").result()
    found = sdk.embeddings.create(model=MODEL, input=[*TEXTS, LONG], dimensions=64)
    assert same_bits([row.embedding for row in found.data], queue.embed([*TEXTS, LONG], dimensions=64))
    counts = np.minimum(reply.token_counts, MAX_TOKENS)  # what is cut off is not charged
    assert found.usage.prompt_tokens == found.usage.total_tokens == counts.sum()


def test_openai_options_of_ours_as_fields_and_as_headers(sdk, queue):
    wanted = queue.embed(TEXTS, input_type="query")
    fields = {"input_type": "query", "lane": "bulk", "truncate": True, "something_else": 1}
    found = sdk.embeddings.create(model=MODEL, input=TEXTS, extra_body=fields)
    assert same_bits([row.embedding for row in found.data], wanted)
    headers = {"x-embedmill-lane": "bulk", "x-embedmill-input-type": "query"}
    found = sdk.embeddings.create(model=MODEL, input=TEXTS, extra_headers=headers)
    assert same_bits([row.embedding for row in found.data], wanted)
    for wrong in ({"lane": "express"}, {"input_type": "poem"}, {"truncate": "yes"}, {"lane": 3}):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.embeddings.create(model=MODEL, input=TEXTS, extra_body=wrong)
        assert caught.value.param == next(iter(wrong))


def test_openai_truncation_is_told_and_can_be_forbidden(sdk):
    raw = sdk.embeddings.with_raw_response.create(model=MODEL, input=[TEXTS[0], LONG, TEXTS[1], LONG])
    assert raw.headers["x-embedmill-truncated"] == "1,3"
    assert raw.headers["x-embedmill-truncated-count"] == "2"
    whole = sdk.embeddings.with_raw_response.create(model=MODEL, input=TEXTS)
    assert "x-embedmill-truncated" not in whole.headers

    with pytest.raises(openai.BadRequestError) as caught:
        sdk.embeddings.create(model=MODEL, input=[TEXTS[0], LONG], extra_body={"truncate": False})
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    assert "input[1]" in str(caught.value)
    assert "word" not in str(caught.value)


def test_openai_arrays_of_the_models_tokens_are_texts(sdk, queue, tokenizer):
    texts = ["good morning", "a queue keeps what nobody has answered yet."]
    wanted = queue.embed(texts)
    bare = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    whole = [tokenizer.encode(text).ids for text in texts]
    for arrays in (bare, whole):
        found = sdk.embeddings.create(model=MODEL, input=arrays)
        assert same_bits([row.embedding for row in found.data], wanted)
        alone = sdk.embeddings.create(model=MODEL, input=arrays[1])
        assert same_bits([row.embedding for row in alone.data], wanted[1:])
        assert alone.usage.prompt_tokens == len(whole[1])


def test_openai_tokens_of_another_tokenizer_are_refused(sdk, tokenizer):
    word = tokenizer.encode("embeddings", add_special_tokens=False).ids
    assert len(word) > 1
    size = tokenizer.get_vocab_size()
    for foreign in ([size], [-1], [1 << 70], [word[::-1]], [word, []], [[101, 102], "text"], [3.5]):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.embeddings.create(model=MODEL, input=foreign)
        assert caught.value.param.startswith("input"), foreign


def test_openai_requests_that_cannot_be_served_are_bad_requests(sdk):
    cases = [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": TEXTS, "encoding_format": "md5"}, "encoding_format"),
        ({"input": TEXTS, "dimensions": 0}, "dimensions"),
        ({"input": TEXTS, "dimensions": 100_000}, None),
        ({"input": ["a"] * 2_049}, "input"),
    ]
    for case, param in cases:
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.embeddings.create(model=MODEL, **case)
        error = caught.value
        assert (error.status_code, error.type) == (400, "invalid_request_error"), case
        assert error.response.headers["x-should-retry"] == "false"
        assert error.code is None
        assert param is None or error.param == param, case
    wanted = "Invalid value for 'encoding_format' = md5. Supported values: ['float', 'base64']."
    with pytest.raises(openai.BadRequestError, match="encoding_format") as caught:
        sdk.embeddings.create(model=MODEL, input="a", encoding_format="md5")
    assert caught.value.body["message"] == wanted


def test_openai_models_are_listed_and_unknown_ones_not_found(sdk):
    (model,) = sdk.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "embedmill")
    assert sdk.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("org/no-such-model")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.embeddings.create(model="text-embedding-3-small", input=TEXTS)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert MODEL in str(caught.value)
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}])
    assert caught.value.request_id


def test_openai_request_ids(sdk):
    raw = sdk.embeddings.with_raw_response.create(model=MODEL, input="a", extra_headers={"X-Request-ID": "mine-1"})
    assert raw.request_id == "mine-1"
    assert raw.parse()._request_id == "mine-1"
    ids = {sdk.embeddings.create(model=MODEL, input="a")._request_id for _ in range(3)}
    assert len(ids) == 3
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.embeddings.create(model=MODEL, input="")
    assert caught.value.request_id


def test_openai_async(gateway, queue):
    wanted = queue.embed(TEXTS)

    async def tour():
        async with openai.AsyncOpenAI(base_url=gateway.openai_url, api_key="unused", max_retries=0) as sdk:
            calls = [sdk.embeddings.create(model=MODEL, input=text) for text in TEXTS * 8]
            rows = [reply.data[0].embedding for reply in await asyncio.gather(*calls)]
            floats = await sdk.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float", dimensions=16)
            with pytest.raises(openai.NotFoundError):
                await sdk.embeddings.create(model="nobody", input="a")
            names = [model.id async for model in sdk.models.list()]
            return rows, [row.embedding for row in floats.data], names

    rows, floats, names = asyncio.run(asyncio.wait_for(tour(), PATIENCE_S))
    assert same_bits(rows, np.tile(wanted, (8, 1)))
    assert same_bits(floats, queue.embed(TEXTS, dimensions=16))
    assert names == [MODEL]


KEY, BULK_KEY, POOR_KEY = "sk-open-sesame-0001", "sk-open-sesame-0002", "sk-open-sesame-0003"


@pytest.fixture(scope="module")
def guarded(mill, tmp_path_factory):
    """A gateway with keys: one for all, one for bulk, one with few tokens a minute."""
    from support.gateway import start

    folder = tmp_path_factory.mktemp("guarded")
    keys = folder / "keys.txt"
    digest = hashlib.sha256(BULK_KEY.encode()).hexdigest()
    lines = [f"{KEY} name=all", f"sha256:{digest} name=crawler lane=bulk", f"{POOR_KEY} name=poor tokens_per_minute=10"]
    keys.write_text("\n".join(lines))
    gateway = start(mill.env, folder, "--api-keys-file", str(keys))
    yield gateway
    gateway.stop()


def test_openai_keys(guarded, queue):
    wanted = queue.embed(TEXTS)
    for key in (KEY, BULK_KEY):
        with openai_of(guarded, api_key=key) as sdk:
            found = sdk.embeddings.create(model=MODEL, input=TEXTS)
            assert same_bits([row.embedding for row in found.data], wanted)
            assert len(sdk.models.list().data) == 1
    # Others have other names for a key.
    client = ollama.Client(guarded.url, headers={"authorization": f"Bearer {KEY}"})
    assert same_bits(client.embed(MODEL, TEXTS).embeddings, wanted)
    inference = huggingface_hub.InferenceClient(guarded.url, token=KEY)
    assert same_bits(inference.feature_extraction(TEXTS), wanted)
    found = httpx.post(f"{guarded.url}/embed", json={"inputs": TEXTS}, headers={"x-api-key": KEY}, timeout=PATIENCE_S)
    assert same_bits(found.json(), wanted)
    with pytest.raises(ollama.ResponseError) as caught:
        ollama.Client(guarded.url).embed(MODEL, TEXTS)
    assert caught.value.status_code == 401
    assert httpx.get(f"{guarded.url}/health", timeout=PATIENCE_S).status_code == 200
    with openai_of(guarded, api_key="sk-open-sesame-9999") as sdk:
        for call in (lambda: sdk.embeddings.create(model=MODEL, input=TEXTS), sdk.models.list):
            with pytest.raises(openai.AuthenticationError) as caught:
                call()
            assert caught.value.code == "invalid_api_key"
            assert "9999" not in str(caught.value)
    with openai_of(guarded, api_key=BULK_KEY) as sdk, pytest.raises(openai.PermissionDeniedError) as caught:
        sdk.embeddings.create(model=MODEL, input=TEXTS, extra_body={"lane": "interactive"})
    assert caught.value.param == "lane"
    assert KEY not in guarded.log


@pytest.fixture
def used_up(mill):
    """Counts the poor key's tokens of this minute, and of those that a slow test may see, as used; gives a way back."""
    keys, now = Keyspace(mill.namespace), int(time.time() // 60)
    names = [keys.rate("poor", minute) for minute in range(now, now + 30)]
    with plain_redis(mill.redis_url) as server:
        for name in names:
            server.set(name, 10_000, ex=3_600)
        yield lambda: server.delete(*names)
        server.delete(*names)


def test_openai_a_key_whose_tokens_are_used_up_is_a_rate_limit(guarded, used_up):
    with openai_of(guarded, api_key=POOR_KEY) as sdk:
        with pytest.raises(openai.RateLimitError) as caught:
            sdk.embeddings.create(model=MODEL, input=TEXTS)
        error = caught.value
        assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "tokens")
        headers = error.response.headers
        assert 0 < int(headers["retry-after-ms"]) <= 60_000
        assert 0 < int(headers["retry-after"]) <= 61
        assert headers["x-should-retry"] == "true"
        used_up()
        assert sdk.embeddings.create(model=MODEL, input=TEXTS).data
    with openai_of(guarded, api_key=KEY) as sdk:  # others are not concerned
        assert sdk.embeddings.create(model=MODEL, input=TEXTS).data


def test_openai_retries_wait_as_long_as_they_are_told(guarded, used_up, monkeypatch):
    told, slept = [], []

    def sleep(seconds):
        slept.append(seconds)
        used_up()

    hooks = {"response": [lambda response: told.append((response.status_code, response.headers.get("retry-after-ms")))]}
    http_client = openai.DefaultHttpxClient(event_hooks=hooks)
    with openai_of(guarded, api_key=POOR_KEY, max_retries=2, http_client=http_client) as sdk:
        monkeypatch.setattr(time, "sleep", sleep)
        assert sdk.embeddings.create(model=MODEL, input=TEXTS).data
    assert [status for status, _ in told] == [429, 200]
    assert slept == [int(told[0][1]) / 1000]


def test_openai_async_retries_wait_as_long_as_they_are_told(guarded, used_up, monkeypatch):
    told, slept = [], []

    async def sleep(seconds):
        slept.append(seconds)
        used_up()

    async def note(response):
        told.append((response.status_code, response.headers.get("retry-after-ms")))

    async def tour():
        http_client = openai.DefaultAsyncHttpxClient(event_hooks={"response": [note]})
        async with openai.AsyncOpenAI(base_url=guarded.openai_url, api_key=POOR_KEY, http_client=http_client) as sdk:
            monkeypatch.setattr("anyio.sleep", sleep)
            return await sdk.embeddings.create(model=MODEL, input=TEXTS)

    assert asyncio.run(asyncio.wait_for(tour(), PATIENCE_S)).data
    assert [status for status, _ in told] == [429, 200]
    assert slept == [int(told[0][1]) / 1000]


def test_openai_more_than_is_done_in_time_is_refused_and_a_hang_up_makes_room(mill, make_gateway, monkeypatch):
    gateway = make_gateway(mill.env, "--max-wait", "0")
    settings = ClientSettings(redis_url=mill.redis_url, namespace=mill.namespace)

    def waiting():
        return sum(lane.texts for lane in status_of(settings).lanes)

    # Half a minute of work, whose client hangs up in the middle.
    crowd = HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_S)
    body = json.dumps({"model": MODEL, "input": [f"{number} {LONG}" for number in range(600)]})
    crowd.request("POST", "/v1/embeddings", body)
    wait_until(waiting, "the crowd's texts")
    told, slept = [], []
    real_sleep = time.sleep

    def sleep(seconds):
        if not slept:
            monkeypatch.setattr(time, "sleep", real_sleep)
            crowd.close()
            wait_until(lambda: not waiting(), "the end of the crowd's texts")
            monkeypatch.setattr(time, "sleep", sleep)
        slept.append(seconds)
        real_sleep(min(seconds, 0.1))

    hooks = {"response": [lambda response: told.append((response.status_code, response.headers.get("retry-after-ms")))]}
    http_client = openai.DefaultHttpxClient(event_hooks=hooks)
    with openai_of(gateway, max_retries=50, http_client=http_client) as sdk:
        monkeypatch.setattr(time, "sleep", sleep)
        assert sdk.embeddings.create(model=MODEL, input=TEXTS).data
    statuses = [status for status, _ in told]
    assert statuses == [429] * (len(told) - 1) + [200]
    assert slept == [int(milliseconds) / 1000 for _, milliseconds in told[:-1]]
    assert slept


def test_openai_without_workers_and_without_redis_it_is_unavailable_and_comes_back(
    durable_mill, own_valkey, make_gateway
):
    gateway = make_gateway(durable_mill.env, "--request-timeout", "20", ready=False)
    with openai_of(gateway) as sdk:

        def refused():
            with pytest.raises(openai.InternalServerError) as caught:
                sdk.embeddings.create(model=MODEL, input=TEXTS)
            error = caught.value
            assert (error.status_code, error.code, error.type) == (503, "service_unavailable", "server_error")
            assert int(error.response.headers["retry-after-ms"]) > 0
            assert own_valkey.url not in str(error)

        refused()
        durable_mill.start_worker()
        assert gateway.wait_health(200)
        first = sdk.embeddings.create(model=MODEL, input=TEXTS)
        own_valkey.kill()
        refused()
        assert gateway.wait_health(503)
        refused()
        own_valkey.restart()
        assert gateway.wait_health(200)
        again = sdk.embeddings.create(model=MODEL, input=TEXTS)
        assert [row.embedding for row in again.data] == [row.embedding for row in first.data]


# --- LangChain, LlamaIndex ----------------------------------------------------------------------------------------


def test_langchain(gateway, queue):
    wanted = queue.embed(TEXTS)
    options = {"model": MODEL, "base_url": gateway.openai_url, "api_key": "unused", "check_embedding_ctx_length": False}
    embeddings = langchain.OpenAIEmbeddings(**options)
    assert same_bits(embeddings.embed_documents(TEXTS), wanted)
    assert same_bits([embeddings.embed_query(TEXTS[1])], wanted[1:2])

    async def tour():
        async with openai.DefaultAsyncHttpxClient() as http_client:  # which nothing else closes
            return await langchain.OpenAIEmbeddings(**options, http_async_client=http_client).aembed_documents(TEXTS)

    assert same_bits(asyncio.run(asyncio.wait_for(tour(), PATIENCE_S)), wanted)
    small = langchain.OpenAIEmbeddings(**options, dimensions=32, chunk_size=2)
    assert same_bits(small.embed_documents(TEXTS), queue.embed(TEXTS, dimensions=32))


def test_llama_index(gateway, queue):
    wanted = queue.embed(TEXTS)
    options = {"model_name": MODEL, "api_base": gateway.openai_url, "api_key": "unused"}
    embedding = llama_index.OpenAIEmbedding(**options)
    assert same_bits(embedding.get_text_embedding_batch(TEXTS), wanted)
    assert same_bits([embedding.get_query_embedding(TEXTS[2])], wanted[2:3])

    async def tour():
        async with openai.DefaultAsyncHttpxClient() as http_client:  # which nothing else closes
            embedding = llama_index.OpenAIEmbedding(**options, async_http_client=http_client)
            return await embedding.aget_text_embedding_batch(TEXTS)

    assert same_bits(asyncio.run(asyncio.wait_for(tour(), PATIENCE_S)), wanted)
    small = llama_index.OpenAIEmbedding(**options, dimensions=32, embed_batch_size=2)
    assert same_bits(small.get_text_embedding_batch(TEXTS), queue.embed(TEXTS, dimensions=32))


# --- Ollama -------------------------------------------------------------------------------------------------------


def test_ollama(gateway, queue):
    wanted = queue.embed(TEXTS)
    client = ollama.Client(gateway.url)
    for name in (MODEL, f"{MODEL}:latest"):
        found = client.embed(name, TEXTS, keep_alive="5m", options={"num_ctx": 256})
        assert same_bits(found.embeddings, wanted)
        assert found.model == name
        assert found.total_duration > 0
    counts = queue.submit(TEXTS, lane="interactive").result().token_counts
    assert found.prompt_eval_count == counts.sum()
    assert same_bits(client.embed(MODEL, TEXTS[0]).embeddings, wanted[:1])
    assert same_bits(client.embed(MODEL, TEXTS, dimensions=64).embeddings, queue.embed(TEXTS, dimensions=64))
    assert client.embed(MODEL, []).embeddings == []
    assert same_bits([client.embeddings(MODEL, TEXTS[0]).embedding], wanted[:1])
    assert list(client.embeddings(MODEL, "").embedding) == []
    assert same_bits(client.embed(MODEL, [LONG]).embeddings, queue.embed([LONG]))

    (listed,) = client.list().models
    assert (listed.model, listed.details.format) == (f"{MODEL}:latest", "onnx")
    assert client.show(MODEL).capabilities == ["embedding"]
    assert client.show(MODEL).modelinfo["embedding.embedding_length"] == 384
    assert [model.model for model in client.ps().models] == [f"{MODEL}:latest"]

    with pytest.raises(ollama.ResponseError, match="model 'nobody' not found") as caught:
        client.embed("nobody", TEXTS)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="the input length exceeds the context length") as caught:
        client.embed(MODEL, LONG, truncate=False)
    assert caught.value.status_code == 400


def test_ollama_async_and_what_its_tools_ask_first(gateway, queue):
    async def tour():
        return await ollama.AsyncClient(gateway.url).embed(MODEL, TEXTS)

    assert same_bits(asyncio.run(asyncio.wait_for(tour(), PATIENCE_S)).embeddings, queue.embed(TEXTS))
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as plain:
        assert plain.get("/").text == "Ollama is running"
        assert plain.head("/").status_code == 200
        assert plain.get("/api/version").json() == {"version": embedmill.__version__}
        assert plain.head("/api/version").status_code == 200
        assert plain.post("/api/embed", json={"model": MODEL}).json()["embeddings"] == []
        wrong = plain.post("/api/embed", content=b"not json")
        assert (wrong.status_code, set(wrong.json())) == (400, {"error"})


# --- text-embeddings-inference ------------------------------------------------------------------------------------


def test_inference_client(gateway, queue):
    wanted = queue.embed(TEXTS)
    for address in (gateway.url, f"{gateway.url}/embed"):
        client = huggingface_hub.InferenceClient(address, token="unused")
        assert same_bits(client.feature_extraction(TEXTS[0]), wanted[:1])
        assert same_bits(client.feature_extraction(TEXTS), wanted)
        query = client.feature_extraction(TEXTS[0], normalize=True, truncate=True, truncation_direction="right")
        assert same_bits(query, wanted[:1])
        assert same_bits(client.feature_extraction(LONG, truncate=True), queue.embed([LONG]))
        assert same_bits(client.feature_extraction(TEXTS[0], prompt_name="query"), wanted[:1])
        assert same_bits(client.feature_extraction(TEXTS[0], dimensions=64), queue.embed(TEXTS[:1], dimensions=64))
        with pytest.raises(hub_errors.HfHubHTTPError) as caught:
            client.feature_extraction(LONG)
        assert caught.value.response.status_code == 422


def test_inference_client_async(gateway, queue):
    async def tour():
        async with huggingface_hub.AsyncInferenceClient(gateway.url, token="unused") as client:
            return await client.feature_extraction(TEXTS)

    assert same_bits(asyncio.run(asyncio.wait_for(tour(), PATIENCE_S)), queue.embed(TEXTS))


TIMINGS = ("x-compute-time", "x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time")


def test_tei_headers_and_facts(gateway, queue, tokenizer):
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as plain:
        found = plain.post("/embed", json={"inputs": TEXTS})
        assert same_bits(found.json(), queue.embed(TEXTS))
        counts = queue.submit(TEXTS, lane="interactive").result().token_counts
        assert int(found.headers["x-compute-tokens"]) == counts.sum()
        assert int(found.headers["x-compute-characters"]) == sum(map(len, TEXTS))
        assert found.headers["x-compute-type"] == "cpu"
        assert all(found.headers[name].isdecimal() for name in TIMINGS)
        alone = plain.post("/embed", json={"inputs": TEXTS[0]})
        assert same_bits(alone.json(), queue.embed(TEXTS[:1]))
        ids = tokenizer.encode("good morning").ids
        assert same_bits(plain.post("/embed", json={"inputs": [ids]}).json(), queue.embed(["good morning"]))
        cut = plain.post("/embed", json={"inputs": ["a", LONG], "truncate": True})
        assert cut.headers["x-embedmill-truncated"] == "1"

        info = plain.get("/info").json()
        assert (info["model_id"], info["max_input_length"], info["model_dtype"]) == (MODEL, MAX_TOKENS, "float32")
        assert info["version"] == embedmill.__version__
        assert plain.get("/health").status_code == 200


def test_tei_errors(gateway):
    cases = [
        ({"inputs": ""}, 400, "Empty"),
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": LONG}, 422, "Validation"),
        ({"inputs": LONG, "truncate": False}, 422, "Validation"),
        ({"inputs": "a", "truncation_direction": "left"}, 422, "Validation"),
        ({"inputs": "a", "normalize": False}, 422, "Validation"),
        ({"inputs": "a", "dimensions": 100_000}, 422, "Validation"),
        ({"inputs": ["a"] * 2_049}, 422, "Validation"),
        ({"inputs": 5}, 422, "Validation"),
        ({}, 422, "Validation"),
    ]
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as plain:
        for body, status, kind in cases:
            found = plain.post("/embed", json=body)
            assert (found.status_code, found.json()["error_type"]) == (status, kind), body
            assert set(found.json()) == {"error", "error_type"}
            assert "word" not in found.text
        assert plain.post("/embed", content=b"{").status_code == 422
        foreign = plain.post("/embed", json={"inputs": [[1 << 20]]})
        assert foreign.status_code == 422
        assert foreign.json()["error"].startswith("'inputs[0]'")


# --- gRPC ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def generated(tmp_path_factory):
    """What protoc makes of the interface: the modules that a client has, and the description."""
    folder = tmp_path_factory.mktemp("generated")
    source = importlib.resources.files("embedmill_worker.gateway.apis") / "embedding.proto"
    (folder / "embedding.proto").write_bytes(source.read_bytes())
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=."]
    command += ["--descriptor_set_out=set.bin", "embedding.proto"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=PATIENCE_S)
    sys.path.insert(0, str(folder))
    try:
        modules = importlib.import_module("embedding_pb2"), importlib.import_module("embedding_pb2_grpc")
    finally:
        sys.path.remove(str(folder))
    return *modules, descriptor_pb2.FileDescriptorSet.FromString((folder / "set.bin").read_bytes())


@pytest.fixture
def channel(gateway):
    """An open channel."""
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        yield channel


def test_grpc_our_messages_are_what_protoc_makes_of_the_file(generated):
    (file,) = generated[2].file
    assert messages.file_descriptor() == file


def test_grpc_one_text_and_several_have_the_queues_bits(generated, channel, queue):
    embedding_pb2, embedding_pb2_grpc, _ = generated
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    wanted = queue.embed(TEXTS)
    one = stub.GetEmbeddings(embedding_pb2.EmbeddingRequest(single_text=TEXTS[0]), timeout=PATIENCE_S)
    assert same_bits([row.values for row in one.vectors], wanted[:1])
    batch = embedding_pb2.EmbeddingRequest(batch_texts=embedding_pb2.TextBatch(texts=TEXTS))
    several = stub.GetEmbeddings(batch, timeout=PATIENCE_S)
    assert same_bits([row.values for row in several.vectors], wanted)
    cut = stub.GetEmbeddings(embedding_pb2.EmbeddingRequest(single_text=LONG), timeout=PATIENCE_S)
    assert same_bits([row.values for row in cut.vectors], queue.embed([LONG]))


def test_grpc_aio(generated, gateway, queue):
    embedding_pb2, embedding_pb2_grpc, _ = generated

    async def tour():
        async with grpc.aio.insecure_channel(gateway.grpc_address) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            requests = [embedding_pb2.EmbeddingRequest(single_text=text) for text in TEXTS]
            replies = await asyncio.gather(*(stub.GetEmbeddings(each, timeout=PATIENCE_S) for each in requests))
            return [reply.vectors[0].values for reply in replies]

    assert same_bits(asyncio.run(tour()), queue.embed(TEXTS))


def test_grpc_errors(generated, channel):
    embedding_pb2, embedding_pb2_grpc, _ = generated
    stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
    batch = embedding_pb2.TextBatch
    cases = [
        (embedding_pb2.EmbeddingRequest(), "No input provided"),
        (embedding_pb2.EmbeddingRequest(single_text=""), "Empty input provided"),
        (embedding_pb2.EmbeddingRequest(batch_texts=batch()), "Empty input provided"),
        (embedding_pb2.EmbeddingRequest(batch_texts=batch(texts=["a", ""])), "Empty input provided"),
        (embedding_pb2.EmbeddingRequest(batch_texts=batch(texts=["a"] * 2_049)), None),
    ]
    for request, message in cases:
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetEmbeddings(request, timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert message is None or caught.value.details() == message
    large = embedding_pb2.EmbeddingRequest(single_text="a" * (5 << 20))
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetEmbeddings(large, timeout=PATIENCE_S)
    assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)


def test_grpc_keys_and_limits(generated, guarded, used_up):
    embedding_pb2, embedding_pb2_grpc, _ = generated
    request = embedding_pb2.EmbeddingRequest(single_text=TEXTS[0])

    def call(*metadata):
        return stub.GetEmbeddings(request, timeout=PATIENCE_S, metadata=metadata)

    with grpc.insecure_channel(guarded.grpc_address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        for metadata in ((), (("authorization", "Bearer sk-open-sesame-9999"),)):
            with pytest.raises(grpc.RpcError) as caught:
                call(*metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert call(("authorization", f"Bearer {KEY}")).vectors
        assert call(("x-api-key", BULK_KEY)).vectors
        with pytest.raises(grpc.RpcError) as caught:
            call(("authorization", f"Bearer {POOR_KEY}"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(caught.value.trailing_metadata())["retry-after-ms"]) > 0


def test_grpc_without_workers_it_is_unavailable(generated, own_mill, make_gateway):
    embedding_pb2, embedding_pb2_grpc, _ = generated
    gateway = make_gateway(own_mill.env, ready=False)
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            stub.GetEmbeddings(embedding_pb2.EmbeddingRequest(single_text="a"), timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        health = health_pb2_grpc.HealthStub(channel)
        reply = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_grpc_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "embedding.EmbeddingService"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_grpc_whoever_watches_hears_of_a_change_and_holds_up_no_end(own_mill, make_gateway):
    gateway = make_gateway(own_mill.env, ready=False)
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE_S)
        kinds = health_pb2.HealthCheckResponse
        assert next(unknown).status == kinds.SERVICE_UNKNOWN
        assert next(watch).status == kinds.NOT_SERVING
        own_mill.start_worker(EMBEDMILL_CONCURRENCY="1")
        assert next(watch).status == kinds.SERVING
        gateway.process.terminate()
        assert [reply.status for reply in watch] == [kinds.NOT_SERVING]
        assert list(unknown) == []
        assert gateway.stop() == 0


def test_grpc_reflection_describes_the_service_as_protoc_does(generated, channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    assert set(services) == {
        "embedding.EmbeddingService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    pool = DescriptorPool(database)
    method = pool.FindServiceByName("embedding.EmbeddingService").FindMethodByName("GetEmbeddings")
    assert (method.input_type.name, method.output_type.name) == ("EmbeddingRequest", "EmbeddingResponse")
    found = descriptor_pb2.FileDescriptorProto()
    pool.FindFileContainingSymbol("embedding.EmbeddingRequest").CopyToProto(found)
    (file,) = generated[2].file
    found.ClearField("options")
    assert [message.name for message in found.message_type] == [message.name for message in file.message_type]
    assert pool.FindServiceByName("grpc.health.v1.Health").FindMethodByName("Check")


# --- What nobody sees ---------------------------------------------------------------------------------------------


def test_the_log_has_nothing_of_a_text_and_no_traceback(gateway, guarded, sdk):
    secret = "zebra-quartz-4711"
    broken = f'{{"model": "{MODEL}", "input": ["{secret} \\ud800"], "{secret}": 1}}'.encode()
    for body in (broken, broken[:-1], json.dumps({"model": secret, "input": [secret]}).encode()):
        found = httpx.post(f"{gateway.openai_url}/embeddings", content=body, timeout=PATIENCE_S)
        assert found.status_code in (400, 404)
        assert found.json()["error"]["type"] == "invalid_request_error"
    with pytest.raises(openai.BadRequestError):
        sdk.embeddings.create(model=MODEL, input=[f"{secret} {LONG}"], extra_body={"truncate": False})
    for log in (gateway.log, guarded.log):
        assert "Traceback" not in log
        for text in (secret, *TEXTS, LONG[:20]):
            assert text not in log


# --- curl ---------------------------------------------------------------------------------------------------------


def curl(*arguments):
    """Runs curl; gives what it printed."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not there: what it would be told was not tried")
    command = ["curl", "--silent", "--show-error", "--max-time", "100", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout


def test_curl(gateway, queue):
    wanted = queue.embed(TEXTS)
    body = json.dumps({"model": MODEL, "input": TEXTS})
    found = json.loads(curl(f"{gateway.url}/v1/embeddings", "--json", body))
    assert same_bits([row["embedding"] for row in found["data"]], wanted)
    # Without --json curl calls a body a form.
    found = json.loads(curl(f"{gateway.url}/embed", "--data", json.dumps({"inputs": TEXTS})))
    assert same_bits(found, wanted)
    found = json.loads(curl(f"{gateway.url}/api/embed", "--data", body))
    assert same_bits(found["embeddings"], wanted)
    assert curl("--fail", f"{gateway.url}/ping") == "pong"
    wrong = curl("--write-out", "%{http_code}", f"{gateway.url}/nothing")
    assert wrong.endswith("404")
    assert json.loads(wrong[:-3])["error"]["type"] == "invalid_request_error"
