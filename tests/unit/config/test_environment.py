"""ztunnel's variables, and ours."""

import pytest

from hbone.config.catalogue import settings_of
from hbone.config.environment import mistakes
from hbone.config.load import SettingsFile, load_node
from hbone.config.model import ControlSettings, NodeSettings
from hbone.errors import InvalidConfiguration

FILE = SettingsFile(name="node.yaml", text="manifests: m\n")


def value(name: str, environment: dict[str, str], text: str = "") -> object:
    settings: object = load_node(SettingsFile(name="node.yaml", text=f"manifests: m\n{text}"), environment).settings
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


@pytest.mark.parametrize(
    ("variable", "text", "setting", "expected"),
    [
        ("NETWORK", "net-1", "network", "net-1"),
        ("NODE_NAME", "node-1", "node_name", "node-1"),
        ("CLUSTER_ID", "c1", "cluster_id", "c1"),
        ("ISTIO_META_CLUSTER_ID", "c1", "cluster_id", "c1"),
        ("CLUSTER_DOMAIN", "mesh.test", "cluster_domain", "mesh.test"),
        ("TRUST_DOMAIN", "mesh.test", "trust_domain", "mesh.test"),
        ("SECRET_TTL", "24h", "svid_ttl_s", 86_400),
        ("HTTP2_STREAM_WINDOW_SIZE", "65535", "http2.stream_window_bytes", 65_535),
        ("HTTP2_CONNECTION_WINDOW_SIZE", "33554432", "http2.connection_window_bytes", 1 << 25),
        ("HTTP2_FRAME_SIZE", "16384", "http2.max_frame_bytes", 16_384),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "7", "http2.pool_max_streams_per_tunnel", 7),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "5m", "timeouts.idle_tunnel_timeout_s", 300),
        ("KEEPALIVE_ENABLED", "false", "tcp.keepalive_enabled", False),
        ("KEEPALIVE_TIME", "90s", "tcp.keepalive_time_s", 90),
        ("KEEPALIVE_INTERVAL", "10s", "tcp.keepalive_interval_s", 10),
        ("KEEPALIVE_RETRIES", "3", "tcp.keepalive_retries", 3),
        ("USER_TIMEOUT_ENABLED", "true", "tcp.user_timeout_enabled", True),
        ("ENABLE_RESPONSE_BAGGAGE", "false", "response_baggage", False),
        ("IPV6_ENABLED", "false", "ipv6_enabled", False),
        ("ZTUNNEL_WORKER_THREADS", "2", "workers", 2),
        ("RUST_LOG", "info,ztunnel::proxy=debug", "logging.log_level", "info,ztunnel::proxy=debug"),
    ],
)
def test_a_variable_of_ztunnel_sets_the_setting(variable: str, text: str, setting: str, expected: object) -> None:
    assert value(setting, {variable: text}) == expected


@pytest.mark.parametrize(("grace", "deadline_s"), [("30", 25), ("11", 6), ("10", 9), ("2", 1), ("1", 1)])
def test_the_drain_deadline_fits_into_the_grace_period(grace: str, deadline_s: float) -> None:
    assert value("timeouts.drain_deadline_s", {"TERMINATION_GRACE_PERIOD_SECONDS": grace}) == deadline_s


def test_an_explicit_deadline_wins_over_the_grace_period() -> None:
    environment = {"TERMINATION_GRACE_PERIOD_SECONDS": "30", "CONNECTION_TERMINATION_DEADLINE": "7s"}
    assert value("timeouts.drain_deadline_s", environment) == 7


def test_a_grace_period_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="TERMINATION_GRACE_PERIOD_SECONDS"):
        load_node(FILE, {"TERMINATION_GRACE_PERIOD_SECONDS": "long"})


def test_our_own_variable_wins_over_that_of_ztunnel() -> None:
    assert value("network", {"NETWORK": "theirs", "HBONE_NETWORK": "ours"}) == "ours"


def test_the_cluster_of_the_node_metadata_wins() -> None:
    assert value("cluster_id", {"CLUSTER_ID": "a", "ISTIO_META_CLUSTER_ID": "b"}) == "b"


def test_one_variable_sets_both_layouts_but_turns_no_access_log_on() -> None:
    assert value("logging.log_format", {"LOG_FORMAT": "json"}) == "json"
    assert value("logging.access_log", {"LOG_FORMAT": "json"}) == "json"
    assert value("logging.access_log", {"LOG_FORMAT": "plain"}) == "text"
    assert value("logging.access_log", {"LOG_FORMAT": "json"}, "logging: {access_log: off}") == "off"


def test_an_empty_variable_counts_as_not_set() -> None:
    assert value("workers", {"ZTUNNEL_WORKER_THREADS": "", "HBONE_WORKERS": ""}) == 1


def test_what_has_no_effect_here_is_told() -> None:
    assert load_node(FILE, {"XDS_ON_DEMAND": "true"}).without_effect == ("XDS_ON_DEMAND",)


@pytest.mark.parametrize("variable", ["CRL_PATH", "COMPLIANCE_POLICY", "LOCAL_XDS"])
def test_what_must_not_be_missing_in_silence_is_refused(variable: str) -> None:
    with pytest.raises(InvalidConfiguration, match=variable):
        load_node(FILE, {variable: "x"})


def test_a_mistyped_variable_of_ours_is_refused_and_a_foreign_one_is_not() -> None:
    models = (NodeSettings, ControlSettings)
    found = mistakes({"HBONE_CONECT_TIMEOUT_S": "5", "HBONE_MY_OWN_THING": "x", "HBONE_DEBUG": "1"}, models)
    assert [(problem.field, problem.fix) for problem in found] == [
        ("$HBONE_CONECT_TIMEOUT_S", "write HBONE_CONNECT_TIMEOUT_S, or unset it")
    ]


def test_every_setting_can_come_from_its_own_variable() -> None:
    environment: dict[str, str] = {"HBONE_MANIFESTS": "m"}
    for field in settings_of(NodeSettings):
        default = field.default if isinstance(field.default, str | int | float) else None
        if default not in {None, ""}:
            environment[field.env[0]] = str(default)
    loaded = load_node(None, environment)
    assert loaded.settings == load_node(None, {"HBONE_MANIFESTS": "m"}).settings
    assert len(loaded.origins) == len(environment) > 30
