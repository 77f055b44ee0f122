"""Which addresses and URLs webhooks may go to: by every spelling that leads to what is not public."""

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedmill.errors import SettingsError
from embedmill_worker.webhooks.addresses import AddressRules, UnsafeAddressError, is_public

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0"]
PUBLIC += ["2606:4700:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888"]

NOT_PUBLIC = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.9.9.9"),
    *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250"),
    *("240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8"),
    *("64:ff9b::8.8.8.8", "64:ff9b::127.0.0.1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::"),
    *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1"),
    *("2606:4700:4700::1111%eth0",),
]

RULES = AddressRules()


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address):
    assert is_public(ipaddress.ip_address(address))
    assert RULES.check([address]) == [address]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_all_others(address):
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(UnsafeAddressError):
        RULES.check([address])
    with pytest.raises(UnsafeAddressError):
        RULES.check(["8.8.8.8", address])
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(UnsafeAddressError):
        RULES.check_url(f"https://{host}/hook")


@given(st.ip_addresses(v=6))
def test_no_public_address_holds_another_one(address):
    if is_public(address):
        assert address.ipv4_mapped is None and address.sixtofour is None and address.teredo is None
        assert not (address.is_private or address.is_multicast or address.is_link_local or address.is_site_local)


@given(st.ip_addresses(v=4))
def test_no_public_address_is_reserved_for_anything(address):
    if is_public(address):
        assert address.is_global and not (address.is_private or address.is_multicast or address.is_reserved)


def test_what_has_no_address_or_none_that_can_be_read_is_refused():
    for addresses in ([], ["zebra"], [""], ["8.8.8.8", "127.1"]):
        with pytest.raises(UnsafeAddressError):
            RULES.check(addresses)


@pytest.mark.parametrize(
    "url",
    [
        *("https://example.com", "https://example.com/hook?a=b#c", "http://example.com:8080/", "HTTP://Example.COM."),
        *("https://bücher.example/", "https://8.8.8.8/", "https://[2606:4700:4700::1111]:8443/", "https://a_b.example"),
        *("https://1.example/", "https://example.com:443/", "https://0x7f.example/"),
    ],
)
def test_urls_that_may_be_tried(url):
    assert RULES.check_url(url).scheme in ("http", "https")


@pytest.mark.parametrize(
    "url",
    [
        *("", "zebra", "//example.com/", "/hook", "ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)"),
        *("gopher://example.com/", "unix:///run/docker.sock", "https://", "https:///hook", "http:example.com"),
        *("https://user@example.com/", "https://user:zebra@example.com/", "https://:zebra@example.com/"),
        *("https://example.com\\@127.0.0.1/", "https://127.0.0.1\\.example.com/", "https://exa mple.com/"),
        *("https://example.com\r\nhost: other/", "https://example.com\x00/", "https://exam\tple.com/"),
        *("http://127.1/", "http://127.0.1/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.0.0.1/"),
        *("http://0177.0.0.1/", "http://017700000001/", "http://127.0.0.1./", "http://127.0.0.1.:80/", "http://0/"),
        *("http://①②⑦.0.0.1/", "http://１２７.0.0.1/", "http://[::1]", "http://[::ffff:7f00:1]/", "http://[::1%25lo]/"),
        *("http://[v1.a]/", "http://[127.0.0.1]/", "http://[::1", "http://exa%6dple.com/", "http://%3127.0.0.1/"),
        *("http://example.com:0/", "http://example.com:22/", "http://example.com:25/", "http://example.com:99999/"),
        *("http://example.com:-1/", "http://example.com:zebra/", "http://example.com:²/", "https://" + "a" * 300),
        "https://example.com/" + "a" * 3_000,
    ],
)
def test_urls_that_are_refused(url):
    with pytest.raises(UnsafeAddressError) as caught:
        RULES.check_url(url)
    assert str(caught.value) and "zebra" not in str(caught.value) and "passwd" not in str(caught.value)


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text):
    for url in (text, f"https://{text}", f"http://example.com:{text}/"):
        with contextlib.suppress(UnsafeAddressError):
            RULES.check_url(url)


def test_networks_are_allowed_by_name():
    rules = AddressRules.parse(" 10.0.0.0/8, ,fd00::/8,127.0.0.1", "X")
    assert rules.check(["10.1.2.3", "fd00::1", "127.0.0.1", "8.8.8.8"])
    assert rules.check_url("http://127.0.0.1:9000/")
    for address in ("127.0.0.2", "11.0.0.1x", "192.168.0.1", "::ffff:10.0.0.1", "fe80::1"):
        with pytest.raises(UnsafeAddressError):
            rules.check([address])
    for wrong in ("zebra", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0-10.0.0.9"):
        with pytest.raises(SettingsError, match="X"):
            AddressRules.parse(wrong, "X")
