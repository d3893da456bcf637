"""The table of the window: each row's answer, and what is no row."""

import json
from typing import Any

import pytest

from hbone.admin.endpoints import ENDPOINTS, Window, window_routes
from hbone.admin.listings import LISTINGS
from hbone.admin.messages import Answer
from hbone.admin.routes import Routes
from tests.unit.admin.sample import CART, WEB, Sample, SampleLevels, asked, body


class Opened:
    """A window with what is behind it."""

    def __init__(self) -> None:
        self.source = Sample()
        self.levels = SampleLevels()
        self.routes: Routes = window_routes(Window(source=self.source, levels=self.levels))

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return self.routes.answer(asked(path, method, **headers))

    def json(self, path: str) -> Any:
        answer = self.ask(path)
        assert (answer.status, answer.content_type) == (200, "application/json")
        return json.loads(body(answer))


@pytest.fixture
def window() -> Opened:
    return Opened()


def test_every_listing_has_its_row() -> None:
    rows = {row.path: row.help for row in ENDPOINTS}
    assert {listing.path: listing.help for listing in LISTINGS}.items() <= rows.items()
    assert len(rows) == len(ENDPOINTS)


def test_workloads_are_listed_with_the_fields_in_the_order_of_the_view(window: Opened) -> None:
    cart, web = window.json("/workloads")
    assert list(cart)[:5] == ["uid", "name", "namespace", "service_account", "identity"]
    assert (cart["identity"], cart["served_here"], cart["services"]) == (CART, True, ["shop/cart.shop"])
    assert (web["identity"], web["served_here"], web["protocol"]) == (WEB, False, "TCP")


def test_services_are_listed_with_their_endpoints(window: Opened) -> None:
    (cart,) = window.json("/services")
    assert (cart["vips"], cart["ports"]) == (["/10.1.0.1"], ["80:8080"])
    assert cart["endpoints"] == [
        {"uid": "c1//Pod/shop/cart-0", "address": "10.0.0.1", "ports": ["80:8080"], "health": "Healthy"}
    ]


def test_the_oldest_connection_comes_first(window: Opened) -> None:
    assert [connection["age_s"] for connection in window.json("/connections")] == [90.0, 5.0]


@pytest.mark.parametrize(
    ("path", "field", "values"),
    [
        ("/tunnels", "id", [7]),
        ("/certificates", "state", ["valid", "failed"]),
        ("/roots", "trust_domain", ["cluster.local"]),
        ("/listeners", "name", ["inbound"]),
    ],
)
def test_what_else_is_listed(window: Opened, path: str, field: str, values: list[object]) -> None:
    assert [entry[field] for entry in window.json(path)] == values


def test_the_dump_is_one_document(window: Opened) -> None:
    document = window.json("/config_dump")
    assert [workload["name"] for workload in document["workloads"]] == ["cart-0", "web-0"]


def test_a_page_of_another_name_is_refused_whatever_it_asks(window: Opened) -> None:
    assert [window.ask(path, host="evil.example").status for path in ("/", "/process", "/none")] == [403, 403, 403]


def test_the_process_is_one_object(window: Opened) -> None:
    process = window.json("/process")
    assert (process["state"], process["pending"]) == ("starting", ["state manager"])


def test_a_final_slash_does_no_harm(window: Opened) -> None:
    assert window.json("/tunnels/") == window.json("/tunnels")


@pytest.mark.parametrize(
    ("path", "agent", "pretty"),
    [
        ("/tunnels", "curl/8.5.0", True),
        ("/tunnels", "Mozilla/5.0 (X11)", True),
        ("/tunnels", "Python-urllib/3.11", False),
        ("/tunnels?pretty", "Python-urllib/3.11", True),
        ("/tunnels?pretty=false", "curl/8.5.0", False),
    ],
)
def test_people_get_json_on_many_lines_and_machines_on_one(window: Opened, path: str, agent: str, pretty: bool) -> None:
    lines = body(window.ask(path, user_agent=agent)).decode().splitlines()
    assert (len(lines) > 1) == pretty
    assert json.loads("\n".join(lines))[0]["id"] == 7


def test_the_index_page_lists_every_row(window: Opened) -> None:
    answer = window.ask("/")
    page = body(answer).decode()
    assert (answer.status, answer.content_type) == (200, "text/html; charset=utf-8")
    for row in ENDPOINTS:
        assert row.path in page
        assert row.help.replace("'", "&#x27;") in page
    assert '<a href="/workloads">' in page
    assert '<a href="/quitquitquit">' not in page, "what changes something is no link"
    assert "starting, waiting for state manager" in page


def test_the_index_page_shows_names_as_text_not_as_markup(window: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    hostile = replace(window.source.process(), pending=("<script>x</script>",))
    monkeypatch.setattr(window.source, "process", lambda: hostile)
    answer = window.ask("/")
    assert b"<script>" not in body(answer)
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_an_unknown_path_is_answered_with_the_nearest(window: Opened) -> None:
    answer = window.ask("/worklods")
    assert (answer.status, body(answer)) == (404, b"nothing at '/worklods'; did you mean /workloads?\n")


def test_a_path_near_to_nothing_is_answered_with_all_there_is(window: Opened) -> None:
    answer = window.ask("/" + "x" * 5000)
    assert answer.status == 404
    assert b"/config_dump" in body(answer)
    assert len(body(answer)) < 600


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/workloads", "POST", "GET, HEAD"),
        ("/", "DELETE", "GET, HEAD"),
        ("/workloads", "OPTIONS", "GET, HEAD"),
        ("/logging", "GET", "POST"),
        ("/quitquitquit", "GET", "POST"),
    ],
)
def test_another_method_is_answered_with_those_that_are_allowed(
    window: Opened, path: str, method: str, allow: str
) -> None:
    answer = window.ask(path, method)
    assert (answer.status, answer.headers) == (405, {"allow": allow})
    assert window.source.quits == 0


def test_quitquitquit_shuts_down_once_the_answer_is_sent(window: Opened) -> None:
    answer = window.ask("/quitquitquit", "POST")
    assert (answer.status, body(answer), window.source.quits) == (200, b"shutdown now\n", 0)
    assert answer.after is not None
    answer.after()
    assert window.source.quits == 1


@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        ("info", "/logging", "info"),
        ("info", "/logging?level=debug", "debug"),
        ("info,proxy=debug", "/logging?level=warn", "warn,proxy=debug"),
        ("info", "/logging?level=ztunnel::proxy=trace,access=off", "info,proxy=trace,access=off"),
        ("debug,net=trace", "/logging?reset", "info"),
        ("debug,net=trace", "/logging?reset&level=net=warn", "info,net=warn"),
    ],
)
def test_log_levels_are_merged_into_those_in_force(window: Opened, before: str, path: str, after: str) -> None:
    window.levels.set_levels(before)
    answer = window.ask(path, "POST")
    assert (answer.status, body(answer).decode()) == (200, f"current log level is {after}\n")
    assert window.levels.levels == after


@pytest.mark.parametrize("change", ["loud", "", "=debug", "proxy:debug", "proxy="])
def test_a_level_that_is_none_changes_nothing_not_even_a_reset(window: Opened, change: str) -> None:
    window.levels.set_levels("debug")
    answer = window.ask(f"/logging?reset&level={change}", "POST")
    assert answer.status == 400
    assert body(answer).startswith(b"Invalid level provided: ")
    assert b"POST /logging?level=debug" in body(answer)
    assert window.levels.levels == "debug"
