"""Worker, clients, Celery callers and command line under the rights of deploy/redis-users.conf, and under no others."""

import asyncio
import json
import re
import subprocess
import sys

import httpx
import numpy as np
import pytest
import redis
from celery import Celery
from kombu import Exchange, Queue

from conftest import REPOSITORY
from embedmill import AsyncEmbeddingClient, EmbeddingClient
from embedmill_worker.service.broker import broker_settings
from support.servers import free_port, start
from support.waiting import wait_until

MODEL = "all-MiniLM-L6-v2"
USERS = REPOSITORY / "deploy" / "redis-users.conf"

#: What Celery, kombu and redis-py call themselves.
CELERY = {"ping", "multi", "exec", "brpop", "script|load", "setex", "publish", "subscribe"}
CELERY |= {"unsubscribe"}

#: What is called by none of the tests here: for another database than 0, and for deliveries to be restored.
RARE = {"select", "watch", "unwatch", "zrevrangebyscore"}

#: Words in capitals that begin a tuple in our code and are no commands.
NO_COMMANDS = {"SIGKILL", "CPU", "FILE", "DEBUG"}

#: What no user of embedmill may do.
FORBIDDEN = [
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("KEYS", "*"),
    ("SCRIPT", "FLUSH"),
    ("ACL", "LIST"),
    ("SHUTDOWN",),
    ("BGREWRITEAOF",),
    ("MONITOR",),
    ("CLIENT", "LIST"),
    ("REPLICAOF", "NO", "ONE"),
    ("GET", "session:of-another-application"),
    ("SET", "embedmillion", "1"),
    ("EVAL", "return redis.call('GET', 'session:of-another-application')", "0"),
    ("PUBLISH", "another-application", "x"),
]


@pytest.fixture
def guarded(valkey_binary, tmp_path):
    """A server with the users of the example and an administrator."""
    users = (
        USERS.read_text("utf-8")
        .replace("CHANGE_WORKER", "mill")
        .replace("CHANGE_CLIENT", "grain")
        .replace("CHANGE_OPERATOR", "flour")
    )
    file = f"{users}\nuser admin on >admin allkeys allchannels allcommands\n"
    server = start(valkey_binary, tmp_path / "server", free_port(), file=file)
    with server.client(username="admin", password="admin") as admin:
        yield server, admin
    server.kill()


def url_of(server, user, password):
    return f"redis://{user}:{password}@127.0.0.1:{server.port}/0"


def test_everything_runs_with_the_rights_of_the_example_and_none_of_them_is_idle(
    guarded, make_mill, make_gateway, tmp_path
):
    server, admin = guarded
    client_url = url_of(server, "embedmill-client", "grain")
    mill = make_mill(url_of(server, "embedmill-worker", "mill"))
    mill.namespace = mill.env["EMBEDMILL_NAMESPACE"] = "embedmill"
    mill.start_worker()

    with EmbeddingClient(client_url, MODEL) as client:
        row = client.embed(["rights"])
        job = client.submit(["a", "b" * 20_000], lane="bulk")
        assert job.result(60).rejected == ()
        assert [part.indices.size for part in job.iter_results()]
        assert job.delete()
        assert client.submit(["c"], deadline_s=1e-3).wait(60)
        assert client.job(client.submit(["cancelled " * 50] * 400).id).cancel()
        assert client.dead.list() == []

    async def awaited():
        async with AsyncEmbeddingClient(client_url, MODEL) as client:
            return await client.embed(["rights"])

    assert asyncio.run(awaited()).tobytes() == row.tobytes()
    assert celery_row(client_url).tobytes() == row.tobytes()
    command = [sys.executable, "-m", "embedmill_worker.cli", "status", "--json"]
    env = {**mill.env, "EMBEDMILL_REDIS_URL": client_url}
    status = json.loads(subprocess.run(command, env=env, capture_output=True, check=True, timeout=120).stdout)
    assert [worker["model"] for worker in status["workers"]] == [MODEL]

    gateway = make_gateway(env)
    with httpx.Client(base_url=f"{gateway.url}/v1", timeout=60) as jobs:
        webhook = {"url": "https://localhost/", "secret": f"whsec_{'A' * 32}"}
        for name in ("first", "second"):
            assert jobs.post("/jobs", json={"input": ["rights"], "id": name, "webhook": webhook}).status_code == 202
        assert [job["id"] for job in jobs.get("/jobs", params={"after": "second"}).json()["data"]] == ["first"]
        assert "event: done" in jobs.get("/jobs/first/events").text
        assert len(jobs.get("/jobs/first/result").json()["data"]) == 1
        assert jobs.delete("/jobs/first").json()["status"] == "completed"
        wait_until(lambda: jobs.get("/jobs/first").json()["webhook"]["attempts"])  # refused, and to be tried again

    (tmp_path / "corpus.txt").write_text("rights\n")
    reindex = [*command[:3], "reindex", str(tmp_path / "corpus.txt"), "--to", str(tmp_path / "vectors")]
    subprocess.run(reindex, env=env, check=True, timeout=120)

    with EmbeddingClient(client_url, MODEL) as client:
        kept = client.submit(["kept"])
        kept.wait(60)
    operated = {**mill.env, "EMBEDMILL_REDIS_URL": url_of(server, "embedmill-operator", "flour")}
    for words in (
        ["status"],
        ["jobs", "show", kept.id],
        ["jobs", "list"],
        ["jobs", "cancel", kept.id],
        ["jobs", "delete", kept.id],
        ["dead", "list"],
        ["dead", "drop", "--all"],
        ["embed", str(tmp_path / "corpus.txt")],
    ):
        done = subprocess.run([*command[:3], *words], env=operated, capture_output=True, check=True, timeout=120)
        assert (words != ["jobs", "list"]) or (kept.id.encode() in done.stdout and done.stderr == b"")

    refused = {entry["object"] for entry in admin.acl_log() if entry["username"] != "default"}
    assert refused <= {"client|setinfo"}, "which redis-py can do without"
    assert mill.worker.stop() == 0
    used = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
    assert CELERY - used == set(), "rights that Celery does not need"


def rights():
    """The commands that each user may call."""
    lines = [line for line in USERS.read_text("utf-8").splitlines() if line.startswith("user embedmill")]
    return [{word[1:] for word in line.split() if word.startswith("+")} for line in lines]


def test_the_rights_are_those_that_our_code_names_and_celery_s():
    lua = "".join(file.read_text("utf-8") for file in (REPOSITORY / "producer/embedmill/protocol/lua").glob("*.lua"))
    ours = set(re.findall(r"(?:redis\.p?call|put)\('([A-Z]+)'", lua)) | set(re.findall(r"'([LR]PUSH)'", lua))
    for file in [*(REPOSITORY / "producer").rglob("*.py"), *(REPOSITORY / "worker").rglob("*.py")]:
        ours |= set(re.findall(r"\(\"([A-Z]{3,})\",", file.read_text("utf-8"))) - NO_COMMANDS
    worker, client, operator = rights()
    assert operator - client == {"scan"}
    assert worker | client | operator == {name.lower() for name in ours} | CELERY | RARE


def celery_row(url):
    app, queue = Celery("stranger", set_as_current=False), "embedmill.embed"
    app.conf.update(broker_settings(url))
    app.conf.update(
        result_accept_content=["msgpack"],
        result_serializer="msgpack",
        task_queues=[Queue(queue, Exchange("embedmill"), routing_key=queue)],
        broker_transport_options={"priority_steps": [0]},
    )
    pending = app.send_task("embedmill.embed", args=[["rights"]], queue=queue)
    result = pending.get(timeout=60)
    pending.forget()
    app.close()
    return np.frombuffer(result["vectors"], "<f4")


@pytest.mark.parametrize("command", FORBIDDEN, ids=" ".join)
def test_no_user_may_do_what_embedmill_never_does(guarded, command):
    server, _ = guarded
    users = (("embedmill-worker", "mill"), ("embedmill-client", "grain"), ("embedmill-operator", "flour"))
    for user, password in users:
        with server.client(username=user, password=password) as own:
            assert own.ping()
            with pytest.raises(redis.RedisError, match=r"(?i)permission|can.t (run|access)|ACL failure"):
                own.execute_command(*command)


def test_only_an_operator_may_see_the_names_of_all_keys(guarded):
    server, _ = guarded
    for user, password in (("embedmill-worker", "mill"), ("embedmill-client", "grain")):
        with server.client(username=user, password=password) as own, pytest.raises(redis.exceptions.NoPermissionError):
            own.scan()


def test_nobody_is_let_in_without_a_name(guarded):
    server, _ = guarded
    with server.client() as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
