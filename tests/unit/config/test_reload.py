"""What a changed setting takes to apply."""

from hbone.config.fields import Applies
from hbone.config.model import ControlSettings, NodeSettings
from hbone.config.reload import changes, not_live, strongest


def node(**settings: object) -> NodeSettings:
    return NodeSettings.model_validate(settings)


def test_equal_settings_have_no_changes() -> None:
    assert changes(node(), node()) == ()
    assert strongest(()) is Applies.LIVE


def test_each_change_tells_the_setting_and_both_values() -> None:
    (change,) = changes(node(), node(timeouts={"connect_timeout_s": 3}))
    assert (change.field.dotted, change.old, change.new) == ("timeouts.connect_timeout_s", 10.0, 3.0)
    assert change.applies is Applies.LIVE


def test_the_strongest_change_decides_what_it_takes() -> None:
    drain = changes(node(), node(timeouts={"connect_timeout_s": 3}, listeners={"socks": "off"}))
    assert strongest(drain) is Applies.DRAIN
    assert strongest(changes(node(), node(listeners={"socks": "off"}, workers=2))) is Applies.RESTART


def test_what_a_control_plane_takes_while_it_runs_and_what_not() -> None:
    partner = {"trust_domain": "y.test", "bundle": "y.json"}
    live = {"federation": [partner], "svid_ttl_s": 60, "max_svid_ttl_s": 600, "logging": {"log_level": "debug"}}
    found = changes(ControlSettings(), ControlSettings.model_validate({**live, "network": "other"}))
    assert len(found) == 5
    assert [change.field.dotted for change in not_live(found)] == ["network"]
