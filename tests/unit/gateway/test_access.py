"""API keys: how they are written, what they allow, and that no message holds one."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.errors import SettingsError
from embedmill_worker.gateway.access import ANYBODY, MIN_SECRET_CHARS, ApiKeys
from embedmill_worker.gateway.refusals import Kind, RefusedError
from embedmill_worker.gateway.settings import FileLimits

SECRET = "zebra-0123456789abcdef"
HASHED = f"sha256:{hashlib.sha256(SECRET.encode()).hexdigest()}"


def parse(*lines):
    return ApiKeys.parse(lines, "keys.txt")


@pytest.mark.parametrize("written", [SECRET, HASHED, f"  {SECRET}\t"])
def test_a_key_is_known_by_its_secret_however_it_is_written(written):
    caller = parse("# a comment", "", written).identify(SECRET)
    assert caller.name == f"key-{HASHED[7:15]}"
    assert (caller.lane, caller.tokens_per_minute) == ("interactive", 0)


def test_options_follow_the_key():
    caller = parse(f"{SECRET} tokens_per_minute=12 lane=bulk name=nightly").identify(SECRET)
    assert (caller.name, caller.lane, caller.tokens_per_minute) == ("nightly", "bulk", 12)


def test_a_key_may_have_a_quota_of_its_own():
    limits = FileLimits(max_bytes=5)
    for written, wanted in (("", 5), (" max_stored_mib=0", 0), (" max_stored_mib=3", 3 << 20)):
        assert limits.bytes_of(parse(f"{SECRET}{written}").identify(SECRET)) == wanted
    with pytest.raises(SettingsError, match="max_stored_mib is a whole number"):
        parse(f"{SECRET} max_stored_mib=-1")


def test_only_the_hash_is_kept():
    keys = parse(f"{SECRET} name=first")
    assert "zebra" not in repr(keys) + repr(keys.callers[0].digest)
    assert keys.callers[0].digest.hex() == HASHED[7:]
    assert HASHED[7:] not in repr(keys)


@pytest.mark.parametrize("given", [None, "", SECRET[:-1], SECRET + " ", SECRET.upper(), HASHED, "é", "\udcff"])
def test_other_keys_are_refused(given):
    with pytest.raises(RefusedError) as caught:
        parse(SECRET).identify(given)
    assert caught.value.kind is Kind.UNAUTHENTICATED
    assert caught.value.retry_after_s is None
    assert not given or given == "é" or given not in caught.value.message


@given(st.text())
def test_no_other_text_is_the_key(text):
    if text == SECRET:
        return
    with pytest.raises(RefusedError):
        parse(SECRET).identify(text)


def test_without_keys_everybody_may():
    assert parse().identify(None) is ANYBODY
    assert parse("", "# none").identify("anything") is ANYBODY


def test_a_key_of_the_bulk_lane_has_no_other():
    bulk, other = (parse(f"{SECRET} lane={lane}").callers[0] for lane in ("bulk", "interactive"))
    assert (bulk.check_lane(None), bulk.check_lane("bulk")) == ("bulk", "bulk")
    assert (other.check_lane(None), other.check_lane("bulk")) == ("interactive", "bulk")
    assert other.check_lane("interactive") == "interactive"
    with pytest.raises(RefusedError) as caught:
        bulk.check_lane("interactive")
    assert (caught.value.kind, caught.value.param) == (Kind.FORBIDDEN, "lane")
    for caller in (bulk, other):
        with pytest.raises(RefusedError) as caught:
            caller.check_lane("fast")
        assert (caught.value.kind, caught.value.param) == (Kind.INVALID, "lane")


@pytest.mark.parametrize(
    "line",
    [
        "zebra",
        "z" * (MIN_SECRET_CHARS - 1),
        "sha256:zebra",
        "sha256:" + "a" * 63,
        "sha256:" + "A" * 64,
        "zebra-ключ-0123456789",
        f"{SECRET} zebra",
        f"{SECRET} zebra=1",
        f"{SECRET} lane",
        f"{SECRET} lane=zebra",
        f"{SECRET} name=",
        f"{SECRET} name=zebra/1",
        f"{SECRET} name=" + "z" * 65,
        f"{SECRET} tokens_per_minute=zebra",
        f"{SECRET} tokens_per_minute=-1",
        f"{SECRET} tokens_per_minute=1.5",
        f"{SECRET} tokens_per_minute=²",
        f"{SECRET} tokens_per_minute=" + "9" * 17,
    ],
)
def test_keys_that_cannot_be_read_are_named_by_their_place_alone(line):
    with pytest.raises(SettingsError) as caught:
        parse("# a comment", line)
    message = str(caught.value)
    assert "zebra" not in message and SECRET not in message
    assert "keys.txt" in message and "key 2" in message


@pytest.mark.parametrize("lines", [(SECRET, HASHED), (f"{SECRET} name=a", f"{SECRET}x name=a")])
def test_two_keys_differ(lines):
    with pytest.raises(SettingsError, match="two keys have the same") as caught:
        parse(*lines)
    assert "zebra" not in str(caught.value)


def test_a_key_s_name_is_its_tenant_unless_it_names_one():
    lines = ["a-secret-of-16-chars name=nightly", "another-secret-of-16 name=web tenant=shop", "a-third-secret-of-16"]
    named, told, unnamed = ApiKeys.parse(lines, "keys").callers
    assert (named.tenant, told.tenant, unnamed.tenant) == ("nightly", "shop", unnamed.name)
    assert ApiKeys().identify(None).tenant is None
