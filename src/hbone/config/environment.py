"""Environment variables as settings: HBONE_<NAME> for each setting, and the names that ztunnel has for the same.

HBONE_<NAME> wins over ztunnel's. A variable set to nothing counts as not set. What ztunnel knows and hbone cannot
do is either reported as without effect, or refused where ignoring it would lower somebody's guard.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Final

from hbone.config.catalogue import ENV_PREFIX, SettingField, settings_of
from hbone.config.fields import Settings
from hbone.errors import Problem
from hbone.values import dataclass

WITHOUT_EFFECT: Final = (
    "XDS_ON_DEMAND",
    "ENABLE_PROXY",
    "PREFERED_SERVICE_NAMESPACE",
    "INPOD_UDS",
    "INPOD_PORT_REUSE",
    "PACKET_MARK",
    "ENABLE_ORIG_SRC",
    "LOCALHOST_APP_TUNNEL",
    "TLS12_ENABLED",
    "AUTHZ_POLICY_INFO_LOGGING",
    "ZTUNNEL_CPU_LIMIT",
    "PROXY_CONFIG",
)
"""ztunnel's variables that hbone does not act on; the node says so in its log."""

REFUSED: Final = {
    "CRL_PATH": "revocation lists are not read by this version",
    "COMPLIANCE_POLICY": "a key exchange cannot be demanded in this version",
    "LOCAL_XDS": "the local configuration is read from a file: write it to one and name that in LOCAL_XDS_PATH",
}
"""Variables that ask for something which must not silently be missing, and why they cannot be honoured."""

OTHER_NAMES: Final = frozenset(
    {"HBONE_DEBUG", "HBONE_PURE", "HBONE_CONFIG", "HBONE_STATE_DIR", "HBONE_SOCKET", "HBONE_JOIN_TOKEN"}
)
"""Variables of the command line itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromEnvironment:
    """A setting's value as text, and the variable that it came from."""

    field: SettingField
    variable: str
    text: str


def settings_from(
    environment: Mapping[str, str], model: type[Settings], given: Callable[[SettingField], object]
) -> tuple[FromEnvironment, ...]:
    """What `environment` says about `model`. `given(field)` is what the file says, None when it says nothing."""
    found: list[FromEnvironment] = []
    for field in settings_of(model):
        variable = next((name for name in field.env if environment.get(name)), None)
        if variable is None:
            continue
        text = environment[variable].strip()
        if variable == "LOG_FORMAT":
            # One variable for both layouts; it does not turn on an access log that the file turned off.
            if field.name == "access_log" and given(field) in {"off", False}:
                continue
            text = "text" if text == "plain" else text
        elif variable == "TERMINATION_GRACE_PERIOD_SECONDS":
            text = _drain_within(text)
        found.append(FromEnvironment(field=field, variable=variable, text=text))
    return tuple(found)


def without_effect(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The variables set that ztunnel would act on and hbone does not."""
    return tuple(name for name in WITHOUT_EFFECT if environment.get(name))


def mistakes(environment: Mapping[str, str], models: tuple[type[Settings], ...]) -> tuple[Problem, ...]:
    """Variables that cannot be honoured, and HBONE_ names that are almost one of ours.

    `models`: all that this environment may be meant for. Other HBONE_ names may be somebody else's: no mistake.
    """
    found = [
        Problem(what=f"cannot be honoured: {why}", fix="unset it", field=f"${name}")
        for name, why in REFUSED.items()
        if environment.get(name)
    ]
    known = {field.env[0] for model in models for field in settings_of(model)} | OTHER_NAMES
    for name in sorted(environment):
        if name.startswith(ENV_PREFIX) and name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.85)
            if near:
                found.append(Problem(what="no such setting", fix=f"write {near[0]}, or unset it", field=f"${name}"))
    return tuple(found)


def without_settings(environment: Mapping[str, str], model: type[Settings]) -> dict[str, str]:
    """`environment` less everything that would be read as a setting: for a process that is set by its file alone."""
    ours = {name for field in settings_of(model) for name in field.env} | REFUSED.keys()
    return {name: value for name, value in environment.items() if name not in ours and not name.startswith(ENV_PREFIX)}


def _drain_within(text: str) -> str:
    """The drain deadline inside a pod's grace period: 5 s less, 1 s less from 10 s on down, at least 1 s.

    Text that is no number is left to be refused where all values are.
    """
    try:
        grace_s = float(text)
    except ValueError:
        return text
    return f"{grace_s - 5 if grace_s > 10 else max(grace_s - 1, 1):g}"
