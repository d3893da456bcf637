"""`--print-config`."""

from hypothesis import given
from hypothesis import strategies as st

from hbone.config.load import Loaded, SettingsFile, load_node
from hbone.config.model import NodeSettings
from hbone.config.show import show

TEXT = """
workload: shop/cart-0/cart
manifests: /mesh
network: "yes"
cluster_id: 'with: "quotes" # and more'
listeners: {socks: off, admin: unix:/run/a.sock}
forwards:
- {listen: 127.0.0.1:8080, to: cart.shop:80, as: shop/cart}
- {listen: unix:/x, to: "[::1]:80"}
exposes: [{workload: shop/cart-0, port: 80, to: 127.0.0.1:8000}]
timeouts: {half_close_timeout_s: 90, connect_timeout_s: 0.0125}
frames: {max_pings: 1.5/s burst 7}
"""


def test_what_is_shown_loads_again_and_means_the_same() -> None:
    loaded = load_node(SettingsFile(name="node.yaml", text=TEXT), {"LOG_FORMAT": "json"})
    again = load_node(SettingsFile(name="again.yaml", text=show(loaded)))
    assert again.settings == loaded.settings


def test_every_setting_is_shown_with_its_meaning_and_where_it_came_from() -> None:
    shown = show(load_node(SettingsFile(name="node.yaml", text=TEXT), {"RUST_LOG": "debug"}))
    assert "workload: shop/cart-0/cart  # node.yaml:2" in shown
    assert "log_level: debug  # $RUST_LOG" in shown
    assert "# a TLS handshake, either side\n  handshake_timeout_s: 10s  # default" in shown
    assert "stream_window_bytes: 4MiB  # default" in shown
    assert "# ca:  # default" in shown


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029\x85\ufeff\ufffe\uffff")),
    st.floats(0.001, 1e6),
)
def test_any_text_and_any_duration_survive_being_shown(text: str, seconds: float) -> None:
    settings = NodeSettings.model_validate({"workload": "a/b", "network": text, "svid_ttl_s": 1 + seconds})
    again = load_node(SettingsFile(name="x.yaml", text=show(Loaded(settings=settings)))).settings
    assert again.network == text
    assert abs(again.svid_ttl_s - settings.svid_ttl_s) < 1e-6
