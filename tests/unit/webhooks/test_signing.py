"""Signatures that the Standard Webhooks library takes, secrets that can sign, and when to try again."""

import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from conftest import REPOSITORY
from embedmill.errors import SettingsError
from embedmill_worker.webhooks.schedule import JITTER, PAUSES_S, Schedule
from embedmill_worker.webhooks.settings import WebhookSettings
from embedmill_worker.webhooks.signing import SecretError, check_secret, signed_headers


def secret_of(n_bytes):
    return "whsec_" + base64.b64encode(bytes(range(n_bytes))).decode()


SECRET = secret_of(32)


def test_the_library_takes_what_is_signed_and_nothing_else():
    body = '{"type": "job.completed", "data": {"id": "é"}}'
    headers = signed_headers(SECRET, "evt_1", time.time(), body)
    assert Webhook(SECRET).verify(body, headers)["type"] == "job.completed"
    for changed in ({"webhook-id": "evt_2"}, {"webhook-timestamp": str(int(time.time()) + 1)}):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body, headers | changed)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + " ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_of(24)).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, signed_headers(SECRET, "evt_1", time.time() - 400, body))


@pytest.mark.parametrize("n_bytes", [24, 32, 64])
def test_secrets_that_can_sign(n_bytes):
    assert check_secret(secret_of(n_bytes)) == secret_of(n_bytes)


@pytest.mark.parametrize(
    "secret",
    [
        *("", "whsec_", "zebra", SECRET.removeprefix("whsec_"), "whsec_zebra zebra zebra zebra zebra zebra"),
        *("WHSEC_" + SECRET[6:], "whsec_é" + SECRET[7:], SECRET[:-1], SECRET + "\n", secret_of(23), secret_of(65)),
        "whsec_" + "A" * 100_000,
    ],
)
def test_secrets_that_cannot_sign_are_not_shown(secret):
    with pytest.raises(SecretError) as caught:
        check_secret(secret)
    assert len(str(caught.value)) < 200 and "zebra" not in str(caught.value)
    if secret:
        with pytest.raises(SettingsError) as caught:
            WebhookSettings.from_env({"EMBEDMILL_WEBHOOK_SECRET": secret})
        assert "zebra" not in str(caught.value) and "AAAA" not in str(caught.value)


def test_pauses_grow_and_end():
    schedule = Schedule()
    pauses = [schedule.pause_s(attempts, 0) for attempts in range(1, len(PAUSES_S) + 1)]
    assert pauses == sorted(pauses) == list(PAUSES_S)
    assert schedule.pause_s(1, 1) == pytest.approx(PAUSES_S[0] * (1 + JITTER))
    assert schedule.pause_s(len(PAUSES_S) + 1, 0) is None
    assert sum(PAUSES_S) > 3 * 86_400


@pytest.mark.parametrize(
    "value", ["", "0", "-1", "2,1", "zebra", "1,,2", "nan", "1,nan", "inf", "1e9", "1," * 40 + "1"]
)
def test_pauses_that_do_not_grow_are_refused(value):
    with pytest.raises(SettingsError, match="X"):
        Schedule.parse(value, "X")


def test_settings_hide_the_secret():
    found = WebhookSettings.from_env({"EMBEDMILL_WEBHOOK_SECRET": SECRET, "EMBEDMILL_WEBHOOK_RETRY_S": "0.5,1"})
    assert found.secret == SECRET and SECRET not in repr(found)
    assert found.schedule.pauses_s == (0.5, 1.0)
    assert WebhookSettings.from_env({}) == WebhookSettings()


def test_the_page_shows_receivers_code_that_works():
    page = (REPOSITORY / "docs" / "jobs.md").read_text("utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    secret = code.partition('Webhook("')[2].partition('"')[0]
    body = '{"type": "job.completed"}'
    names = {"body": body, "headers": signed_headers(check_secret(secret), "evt_1", time.time(), body)}
    exec(code, names)
    assert names["event"] == {"type": "job.completed"}
