"""What a page in the operator's browser must not be able to do."""

import pytest

from hbone.admin.guard import refusal
from hbone.admin.messages import Request, Transport


def get(host: str | None, transport: Transport = Transport.TCP) -> Request:
    return Request(method="GET", path="/", headers={} if host is None else {"host": host}, transport=transport)


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:15000", "127.0.0.1:15000", "127.0.0.2", "127.255.255.254:1", "[::1]:1", "[::1]"],
)
def test_loopback_may_ask_by_any_of_its_names(host: str) -> None:
    assert refusal(get(host)) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:15000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.evil.example",
        "evil.example, localhost",
        "localhost@evil.example",
        "10.0.0.1:15000",
        "[fd00::1]:15000",
        "127.0.0.1:15000\n",
    ],
)
def test_another_name_in_the_host_header_is_a_rebound_one(host: str | None) -> None:
    answer = refusal(get(host))
    assert answer is not None
    assert answer.status == 403


def test_over_a_unix_socket_the_host_header_does_not_matter() -> None:
    assert refusal(get("anything", Transport.UNIX)) is None


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),
        ({"origin": "http://localhost:15000"}, False),
        ({"origin": "http://localhost:15000", "sec-fetch-site": "same-origin"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"origin": "null"}, True),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "http://localhost:3000"}, True),
        ({"origin": "https://localhost:15000"}, True),
        ({"origin": "http://127.0.0.1:15000"}, True),
        ({"origin": "http://localhost:15000, http://localhost:15000"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
    ],
)
@pytest.mark.parametrize("transport", Transport)
def test_only_the_windows_own_page_and_programs_may_post(
    headers: dict[str, str], refused: bool, transport: Transport
) -> None:
    request = Request(
        method="POST", path="/quitquitquit", headers={"host": "localhost:15000", **headers}, transport=transport
    )
    answer = refusal(request)
    assert (answer is not None) == refused
    assert answer is None or answer.status == 403


def test_a_page_elsewhere_may_link_here() -> None:
    headers = {"host": "localhost:15000", "sec-fetch-site": "cross-site"}
    assert refusal(Request(method="GET", path="/", headers=headers)) is None
