"""What a changed setting takes to apply."""

from hbone.config.fields import Applies
from hbone.config.model import NodeSettings
from hbone.config.reload import changes, strongest


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
