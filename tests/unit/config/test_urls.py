"""Addresses of documents."""

import pytest

from hbone.config.urls import HttpsUrl
from hbone.errors import UsageError


@pytest.mark.parametrize(
    ("text", "host", "port", "target"),
    [
        ("https://y.test", "y.test", 443, "/"),
        ("https://y.test:8443/", "y.test", 8443, "/"),
        ("https://y.test/bundle.json?v=1", "y.test", 443, "/bundle.json?v=1"),
        ("https://[::1]:8443/a", "::1", 8443, "/a"),
    ],
)
def test_an_address_is_read_and_written_back(text: str, host: str, port: int, target: str) -> None:
    url = HttpsUrl.parse(text)
    assert (url.host, url.port, url.target) == (host, port, target)
    assert HttpsUrl.parse(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "http://y.test/",
        "y.test",
        "",
        "https://",
        "https://user@y.test/",
        "https://user:word@y.test/",
        "https://y.test:port/",
        "https://y.test:99999/",
        "https://y.test/#part",
        "https://y.test/a b",
        "https://y.test/ä",
        "https://y.test/\r\nhost: x",
    ],
)
def test_what_is_no_https_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        HttpsUrl.parse(text)
