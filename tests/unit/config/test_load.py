"""Files, environment and flags become settings, or problems with their places."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbone.addr import HostPort
from hbone.config.load import DEFAULT, Flag, OriginKind, SettingsFile, load_control, load_node
from hbone.config.refs import AccountRef
from hbone.errors import InvalidConfiguration, Problem


def file(text: str, name: str = "conf/node.yaml") -> SettingsFile:
    return SettingsFile(name=name, text=text)


def problems(text: str, environment: dict[str, str] | None = None, *flags: Flag) -> list[Problem]:
    with pytest.raises(InvalidConfiguration) as caught:
        load_node(file(text), environment, flags)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def only(text: str, environment: dict[str, str] | None = None, *flags: Flag) -> Problem:
    found = problems(text, environment, *flags)
    assert len(found) == 1, found
    return found[0]


SHARED = "manifests: m\n"


def test_flags_win_over_the_environment_which_wins_over_the_file_which_wins_over_defaults() -> None:
    text = SHARED + "network: file\ncluster_id: file\nnode_name: file\n"
    environment = {"HBONE_CLUSTER_ID": "env", "HBONE_NODE_NAME": "env"}
    loaded = load_node(file(text), environment, (Flag(path="node_name", flag="--node", value="flag"),))
    node = loaded.settings
    assert (node.cluster_domain, node.network, node.cluster_id, node.node_name) == (
        "cluster.local",
        "file",
        "env",
        "flag",
    )
    assert loaded.origin("cluster_domain") is DEFAULT
    assert str(loaded.origin("network")) == "conf/node.yaml:2"
    assert str(loaded.origin("cluster_id")) == "$HBONE_CLUSTER_ID"
    assert loaded.origin("node_name").kind is OriginKind.FLAG


def test_a_path_in_a_file_is_relative_to_the_file_and_one_in_the_environment_is_not() -> None:
    text = "manifests: mesh\nca: /etc/ca\n"
    loaded = load_node(file(text), {"LOCAL_XDS_PATH": "local.yaml"})
    assert loaded.settings.manifests == Path("conf/mesh")
    assert loaded.settings.ca == Path("/etc/ca")
    assert loaded.settings.local_xds == Path("local.yaml")


def test_an_unknown_key_is_refused_with_the_nearest_known_one_and_its_line() -> None:
    assert only(SHARED + "timeouts:\n  conect_timeout_s: 5\n") == Problem(
        what="no such setting",
        fix="write connect_timeout_s",
        field="timeouts.conect_timeout_s",
        file="conf/node.yaml",
        line=3,
    )


def test_a_known_key_in_the_wrong_section_is_told_where_it_belongs() -> None:
    assert only(SHARED + "socks: off\n").fix == "write it as listeners.socks"


def test_a_key_like_nothing_known_is_told_what_is_known() -> None:
    assert "listen, to, as" in only(SHARED + "forwards: [{listen: 127.0.0.1:0, to: a:1, as: a/b, zzzz: 1}]\n").fix


@pytest.mark.parametrize(
    ("line", "field", "what", "fix"),
    [
        ("network: 5", "network", "5 is not text", "quotes"),
        ("listeners: {admin: 15000}", "listeners.admin", "'15000' is not an address", "127.0.0.1:15000"),
        ("listeners: {socks: 127.0.0.1:70000}", "listeners.socks", "'70000' is not a port", "65535"),
        ("timeouts: {connect_timeout_s: 0}", "timeouts.connect_timeout_s", "too small", "more than 0"),
        ("timeouts: {connect_timeout_s: soon}", "timeouts.connect_timeout_s", "'soon' is not a duration", "250ms"),
        ("http2: {max_frame_bytes: 1KiB}", "http2.max_frame_bytes", "1024 is too small", "16384 or more"),
        ("http2: {max_frame_bytes: 1GiB}", "http2.max_frame_bytes", "too large", "or less"),
        ("trust_domain: Shop", "trust_domain", "'Shop' is not a trust domain", "cluster.local"),
        ("tcp: {keepalive_enabled: maybe}", "tcp.keepalive_enabled", "not true or false", "true or false"),
        ("tcp: {keepalive_retries: few}", "tcp.keepalive_retries", "not a whole number", "whole number"),
        ("tcp: 5", "tcp", "5 is not a section", "indented"),
        ("forwards: 5", "forwards", "5 is not a list", "'- '"),
        ("forwards: [{to: a:1, as: a/b}]", "forwards[0].listen", "missing", "add listen"),
        ("forwards: [{listen: 127.0.0.1:0, to: a:0, as: a/b}]", "forwards[0].to", "not a port", "65535"),
        ("forwards: [{listen: 127.0.0.1:0, to: a:1, as: cart}]", "forwards[0].as", "has 1 part", "shop/cart"),
        ("exposes: [{workload: a/b, port: 70000, to: a:1}]", "exposes[0].port", "too large", "65535 or less"),
        ("logging: {access_log: xml}", "logging.access_log", "'xml' is not a choice", "'json'"),
        ("logging: {log_level: 5}", "logging.log_level", "5 is not text", "quotes"),
        ("listeners: {inbound: [a]}", "listeners.inbound", "not text", "127.0.0.1"),
        ("network: {a: b}", "network", "a section is not text", "quotes"),
        ("forwards: [{listen: [a], to: a:1, as: a/b}]", "forwards[0].listen", "is not text", "quotes"),
        ("trust_domain: 5", "trust_domain", "5 is not text", "quotes"),
        ("logging: {log_level: loud}", "logging.log_level", "'loud' is not a log level", "debug"),
        ("frames: {max_pings: 5}", "frames.max_pings", "5 is not a rate", "50/s burst 200"),
        ("manifests: [a]", "manifests", "not a path", "path"),
        ("workload: a", "workload", "has 1 part", "NAMESPACE/NAME/ACCOUNT"),
    ],
)
def test_a_wrong_value_is_told_with_its_place_and_what_to_write(line: str, field: str, what: str, fix: str) -> None:
    problem = only(f"local_xds: x.yaml\n{line}\n")
    assert (problem.file, problem.line, problem.field) == ("conf/node.yaml", 2, field)
    assert what in problem.what
    assert fix in problem.fix


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = SHARED + "netwrk: a\nnetwork: b\ntcp:\n  keepalive_retries: x\nworkers: many\n"
    assert [problem.line for problem in problems(text, {"HBONE_IPV6_ENABLED": "x"})] == [None, 2, 5, 6]


def test_a_wrong_variable_and_a_wrong_flag_are_named_as_they_were_given() -> None:
    found = problems(
        SHARED, {"HBONE_WORKERS": "x", "KEEPALIVE_TIME": "y"}, Flag(path="listeners.socks", flag="--socks", value="z")
    )
    assert [(problem.field, problem.file) for problem in found] == [
        ("--socks", None),
        ("$KEEPALIVE_TIME", None),
        ("$HBONE_WORKERS", None),
    ]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: [", 1, "not valid YAML"),
        ("a: b: c", 1, "not valid YAML"),
        ("- a", 1, "not a mapping"),
        ("a: \x01", 1, "not valid YAML"),
        ("[" * 100_000, 1, "nested deeper"),
        ("x" * (1 << 20) + "y", None, "larger than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_once(text: str, line: int | None, what: str) -> None:
    problem = only(text)
    assert problem.line == line
    assert what in problem.what


@pytest.mark.parametrize("levels", ["abcd", "abcdefgh"])
def test_aliases_cannot_multiply_without_end(levels: str) -> None:
    text = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
        f"{name}: &{name} [{','.join([f'*{above}'] * 30)}]" for above, name in pairwise(levels)
    )
    assert "values" in only(text).what


def test_a_key_given_twice_is_told_with_both_lines() -> None:
    problem = only(SHARED + "network: a\nnetwork: b\n")
    assert (problem.line, problem.what) == (3, "the key 'network' is there twice, first in line 2")


def test_a_file_is_not_needed() -> None:
    assert load_node(None, {"PROXY_WORKLOAD_INFO": "shop/cart-0/cart"}).settings.mode == "dedicated"


def test_a_node_with_a_ca_of_its_own_is_told_that_it_knows_no_workloads() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load_node(None, {"HBONE_CA": "ca"})
    assert "manifests: DIRECTORY" in str(caught.value)


def test_settings_are_one_document() -> None:
    assert only(SHARED + "---\nnetwork: x\n").what == "a second document"


@pytest.mark.parametrize("text", ["5: x", "network: !Exact x", "a b: x", "? [a]\n: b", "network: {a: {b: {c: d}}}"])
def test_odd_yaml_is_told_as_a_mistake_and_never_a_failure_of_ours(text: str) -> None:
    assert problems(SHARED + text)


def test_an_unknown_key_that_is_almost_one_of_another_section_is_told_which() -> None:
    assert only(SHARED + "timeouts: {sock: off}\n").fix == "write listeners.socks"


@given(st.text(max_size=60))
def test_no_text_makes_loading_fail_but_with_its_own_error(text: str) -> None:
    try:
        load_node(file(text), {"HBONE_FORWARDS": text})
    except InvalidConfiguration as error:
        assert error.problems


def test_a_list_can_come_from_the_environment() -> None:
    loaded = load_node(file(SHARED), {"HBONE_FORWARDS": "[{listen: '127.0.0.1:0', to: 'cart.shop:80', as: shop/web}]"})
    forward = loaded.settings.forwards[0]
    assert (forward.to, forward.account) == (HostPort("cart.shop", 80), AccountRef("shop", "web"))
    assert only(SHARED, {"HBONE_FORWARDS": "[{"}).field == "$HBONE_FORWARDS"


def test_a_variable_below_a_section_that_is_none_leaves_the_mistake_in_the_file_to_be_told() -> None:
    assert only(SHARED + "tcp: 5\n", {"KEEPALIVE_TIME": "5"}).field == "tcp"


def test_settings_of_a_control_plane_are_checked_too() -> None:
    assert load_control().settings.trust_domain == "cluster.local"
    with pytest.raises(InvalidConfiguration) as caught:
        load_control(file("svid_ttl_s: 100d\nlisteners: {admin: 0.0.0.0:15014}\n"))
    assert [problem.line for problem in caught.value.problems] == [1, 2]
