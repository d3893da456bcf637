"""The settings models themselves."""

import dataclasses

import pytest
from pydantic import ValidationError

from hbone.config.catalogue import settings_of
from hbone.config.fields import Settings
from hbone.config.listen import InheritedListen
from hbone.config.model import ControlSettings, NodeSettings
from hbone.config.sections import Frames
from hbone.protocol.limits import Limits

MODELS = [NodeSettings, ControlSettings]


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_has_a_meaning_and_a_variable_of_its_own(model: type[Settings]) -> None:
    fields = settings_of(model)
    assert all(field.meaning for field in fields)
    variables = [field.env[0] for field in fields]
    assert sorted(variables) == sorted(set(variables))


@pytest.mark.parametrize("model", MODELS)
def test_every_default_would_be_accepted_if_it_were_written(model: type[Settings]) -> None:
    assert model.model_validate(model().model_dump(mode="json")) == model()


def test_settings_cannot_be_changed_after_they_were_made() -> None:
    with pytest.raises(ValidationError):
        NodeSettings().network = "other"  # type: ignore[misc]


def test_every_frame_limit_of_the_protocol_is_a_setting_with_the_same_default() -> None:
    names = {f"max_{field.name}" for field in dataclasses.fields(Limits)}
    assert set(Frames.model_fields) == names
    assert Frames().limits() == Limits()


def test_a_workload_makes_a_node_dedicated() -> None:
    assert NodeSettings.model_validate({"workload": "shop/cart"}).mode == "dedicated"
    assert NodeSettings.model_validate({"workload": "shop/cart", "mode": "shared"}).mode == "shared"


@pytest.mark.parametrize("off", ["off", "OFF", "none", False, None])
def test_a_listener_can_be_off_also_as_yaml_reads_the_word(off: object) -> None:
    assert NodeSettings.model_validate({"listeners": {"admin": off}}).listeners.admin is None


def test_a_listener_can_be_inherited() -> None:
    node = NodeSettings.model_validate({"listeners": {"inbound": "fd:4"}})
    assert node.listeners.inbound == InheritedListen(4)


@pytest.mark.parametrize(("given", "workers"), [(2, 2), ("3", 3), (0, "auto"), ("0", "auto"), ("auto", "auto")])
def test_workers_are_a_number_or_auto(given: object, workers: object) -> None:
    assert NodeSettings.model_validate({"workers": given}).workers == workers


@pytest.mark.parametrize("wrong", [-1, 257, "many", "50%", True, 1.5])
def test_other_numbers_of_workers_are_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        NodeSettings.model_validate({"workers": wrong})


@pytest.mark.parametrize("yes", [True, "yes"])
def test_a_yaml_yes_is_no_number(yes: object) -> None:
    with pytest.raises(ValidationError):
        NodeSettings.model_validate({"tcp": {"keepalive_retries": yes}})
