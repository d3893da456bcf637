#!/usr/bin/env python3
"""Write docs/reference from the tables that the program itself reads; run by `make docs`.

A test compares the files with what these functions say: no page can be edited by hand, or forgotten after a change.
"""

import ast
import contextlib
import importlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, cast

import click
from click.testing import CliRunner

import hbone
from hbone.admin.endpoints import ENDPOINTS
from hbone.admin.probes import METRICS as METRICS_ENDPOINTS
from hbone.admin.probes import READINESS
from hbone.cli.main import cli
from hbone.config.catalogue import section_of
from hbone.config.environment import REFUSED, WITHOUT_EFFECT
from hbone.config.federated import FederatedDomain
from hbone.config.fields import Settings
from hbone.config.model import Attest, ControlSettings, Expose, Forward, GrantRule, JwtIssuer, NodeSettings
from hbone.config.schema import environment_of
from hbone.config.show import scalar
from hbone.errors import HboneError, PeerRejected
from hbone.net.tlsalert import alert_name, failure_from
from hbone.telemetry.access import AccessRecord, format_json, format_text, party
from hbone.telemetry.names import ACCESS_FIELDS, FLAGS, LABEL_HELP, METRICS, TRAFFIC, TRAFFIC_LABELS, Kind, Metric
from hbone.times import WallTime

DIRECTORY: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"
NOTE: Final = "<!-- Written by `make docs` from {source}. Do not edit. -->"

COMMAND_LINE_VARIABLES: Final = {
    "HBONE_STATE_DIR": "where the CA, the journal and the sockets are kept; `--state-dir` wins over it",
    "HBONE_REQUIRE_RULES": "set to true: `hbone expose` takes no port without a rule that says who may connect",
    "HBONE_JOIN_TOKEN": "the token of `hbone join`, which takes it out of its own environment",
    "HBONE_DEBUG": "set to anything: an internal error also shows its traceback",
    "HBONE_PURE": "set to anything: the compiled modules are left out, hbone runs as plain Python",
}
GENERAL_VARIABLES: Final = {
    "XDG_STATE_HOME": "an absolute path: the state directory is `hbone` in it (not for root)",
    "NO_COLOR": "set to anything: no colours",
}


def main() -> int:
    """Write every page; tell which changed."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        path = DIRECTORY / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(DIRECTORY.parents[1])}")
    return 0


def pages() -> dict[str, str]:
    """File name → text of every page."""
    makers: dict[str, tuple[str, Callable[[], Iterable[str]]]] = {
        "settings.md": ("src/hbone/config/model.py", settings_page),
        "environment.md": ("src/hbone/config/model.py and environment.py", environment_page),
        "metrics.md": ("src/hbone/telemetry/names.py", metrics_page),
        "access-log.md": ("src/hbone/telemetry/names.py", access_log_page),
        "admin.md": ("src/hbone/admin/endpoints.py", admin_page),
        "commands.md": ("the commands' own --help", commands_page),
        "errors.md": ("the subclasses of hbone.errors.HboneError", errors_page),
    }
    return {
        name: "\n".join([NOTE.format(source=source), "", *maker()]).rstrip() + "\n"
        for name, (source, maker) in makers.items()
    }


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A Markdown table."""
    titles = list(head)
    yield f"| {' | '.join(titles)} |"
    yield f"|{' --- |' * len(titles)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def prose(text: str) -> Iterator[str]:
    """A paragraph."""
    yield from textwrap.wrap(text, 118, break_on_hyphens=False)
    yield ""


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(map(code, texts))


# --- settings ---------------------------------------------------------------------------------------------------

APPLIES: Final = {
    "live": "at once, for what begins from then on",
    "drain": "listeners or tunnels are replaced; what they carry may finish",
    "restart": "the process has to be started again",
}


def settings_page() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield from prose(
        "Every setting of `node.yaml` and of the control plane. Each is also an [environment "
        "variable](environment.md). `hbone node --print-config` shows the values in force and where each came "
        "from; `hbone schema node` is the same as JSON Schema. An unknown key is refused with the nearest known "
        "name."
    )
    yield from prose(
        "Durations: seconds, or `250ms`, `30s`, `5m`, `1h30m`. Sizes: bytes, or `64KiB`, `4MiB`. Listeners: "
        "`ADDRESS:PORT`, `unix:/PATH`, `fd:N` (a descriptor that was handed down), or `off`."
    )
    yield from prose(
        "A control plane reads its file again as it changes, and takes it whole or not at all; a node reads its file "
        "when it starts. The last column says what a changed value takes:"
    )
    yield from (f"- **{word}**: {meaning}" for word, meaning in APPLIES.items())
    yield ""
    yield from _model(
        "Node", "A node proxy: `hbone node --config node.yaml`, `hbone up --config node.yaml`.", NodeSettings
    )
    yield from _items("forwards", Forward)
    yield from _items("exposes", Expose)
    yield from _model(
        "Control plane",
        "`hbone control --config control.yaml`, `hbone up --control-config control.yaml`.",
        ControlSettings,
    )
    yield from _items("jwt_issuers", JwtIssuer)
    yield from _items("federation", FederatedDomain)
    yield from _items("grants", GrantRule)
    yield from _items("attest", Attest)


def _model(title: str, about: str, model: type[Settings]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield about
    yield ""
    yield from _section(model, ())


def _section(model: type[Settings], above: tuple[str, ...]) -> Iterator[str]:
    """The settings of one section, then its sections."""
    if above:
        yield f"### `{'.'.join(above)}`"
        yield ""
        yield from [*inspect.cleandoc(model.__doc__ or "").split("\n"), ""]
    inner: list[tuple[str, type[Settings]]] = []
    rows: list[tuple[str, str, str, str]] = []
    defaults = model().model_dump(mode="json")
    for name, info in model.model_fields.items():
        section = section_of(info)
        if section is not None:
            inner.append((name, section))
            continue
        extra = cast("dict[str, object]", info.json_schema_extra)
        rows.append((code(name), _default(defaults[name], name), info.description or "", str(extra["x-applies"])))
    yield from table(("setting", "default", "meaning", "applies"), rows)
    for name, section in inner:
        yield from _section(section, (*above, name))


def _default(value: object, name: str) -> str:
    if value in (None, "", []) and not name.endswith("_s"):
        return "none"
    return code(scalar(value, name).strip('"'))


def _items(name: str, model: type[Settings]) -> Iterator[str]:
    yield f"### Items of `{name}`"
    yield ""
    yield inspect.cleandoc(model.__doc__ or "")
    yield ""
    rows = [
        (code(info.alias or field), "required" if info.is_required() else "optional", info.description or "")
        for field, info in model.model_fields.items()
    ]
    yield from table(("field", "", "meaning"), rows)


# --- environment ------------------------------------------------------------------------------------------------


def environment_page() -> Iterator[str]:
    yield "# Environment variables"
    yield ""
    yield from prose(
        "Flags win over variables, variables over the file, the file over the defaults. A variable that is set to "
        "nothing counts as not set. Where a setting has several, the first one that is set counts. Names without "
        "`HBONE_` are ztunnel's."
    )
    for title, model in (("Node", NodeSettings), ("Control plane", ControlSettings)):
        yield f"## {title}"
        yield ""
        rows = [(code(path), _codes(names)) for path, names in environment_of(model).items()]
        yield from table(("setting", "variables, the strongest first"), rows)
    yield from prose(
        "`forwards` and `exposes` take a JSON or YAML list. `LOG_FORMAT` sets the layout of both logs; `plain` is "
        "`text`. `TERMINATION_GRACE_PERIOD_SECONDS` sets the drain deadline a little shorter than itself."
    )
    yield "## The command line"
    yield ""
    yield from table(("variable", "meaning"), _described({**COMMAND_LINE_VARIABLES, **GENERAL_VARIABLES}))
    yield "## ztunnel's variables that cannot be honoured"
    yield ""
    yield from prose(
        "They ask for something that must not silently be missing; a node with one of them set does not start."
    )
    yield from table(("variable", "why"), _described(REFUSED))
    yield "## ztunnel's variables without effect"
    yield ""
    yield from prose(f"{_codes(WITHOUT_EFFECT)}.")


def _described(words: dict[str, str]) -> Iterator[tuple[str, str]]:
    return ((code(name), meaning) for name, meaning in words.items())


# --- telemetry --------------------------------------------------------------------------------------------------


def metrics_page() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield from prose(
        "`GET /metrics` on the metrics listener (127.0.0.1:15020 unless set otherwise), as OpenMetrics text. "
        "Names that begin with `istio_` have the labels, in the order, that ambient's dashboards know."
    )
    rows = [
        (code(_sample(metric)), metric.kind.value, _labels(metric), f"{metric.help}{_unit(metric)}")
        for metric in METRICS
    ]
    yield from table(("metric", "kind", "labels", "meaning"), rows)
    yield "## Traffic labels"
    yield ""
    yield from prose(f"{_codes(TRAFFIC_LABELS)}.")
    yield from prose("A label whose value is not known is `unknown`.")
    yield from table(("label", "meaning"), ((code(name), text) for name, text in LABEL_HELP.items()))
    yield "## Response flags"
    yield ""
    yield from table(("flag", "meaning"), ((code(name), text) for name, text in FLAGS.items()))


def _sample(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.kind is Kind.COUNTER else metric.name


def _labels(metric: Metric) -> str:
    if metric in TRAFFIC:
        return "[traffic labels](#traffic-labels)"
    return _codes(metric.labels) or "none"


def _unit(metric: Metric) -> str:
    return f", in {metric.unit}" if metric.unit and "time" not in metric.help.lower() else ""


def access_log_page() -> Iterator[str]:
    yield "# Access log"
    yield ""
    yield from prose(
        "One line for each connection, at its end, on standard output. Absent fields are left out. Names and "
        "their order are those that ztunnel writes. `info`: it ended well; `error`: it failed after it was "
        "admitted; `warn`, with `connection failed`: it was turned away before. What an `error` means is in "
        "[troubleshooting](../guide/troubleshooting.md)."
    )
    yield from table(("field", "meaning"), ((code(field.name), field.help) for field in ACCESS_FIELDS))
    record = AccessRecord(
        src_addr="10.0.0.11:40312",
        src=party("client-0", "web", "spiffe://cluster.local/ns/web/sa/client", "Kubernetes"),
        dst_addr="10.0.0.21:15008",
        dst=party("cart-0", "shop", "spiffe://cluster.local/ns/shop/sa/cart", "Kubernetes"),
        direction="outbound",
        bytes_sent=78,
        bytes_recv=205,
        duration_ms=3,
        dst_hbone_addr="10.0.0.21:8080",
        dst_service="cart.shop.svc.cluster.local",
    )
    moment = WallTime(1_790_000_000.25)
    for layout, write in (("text", format_text), ("json", format_json)):
        yield f"With `access_log: {layout}` (one line, wrapped nowhere):"
        yield ""
        yield from ["```", write(moment, "info", "connection complete", record).rstrip(), "```", ""]


# --- admin ------------------------------------------------------------------------------------------------------


def admin_page() -> Iterator[str]:
    yield "# HTTP endpoints"
    yield ""
    yield from prose(
        "The admin listener has no password: keep it on loopback or a Unix socket. `hbone get` asks it for you."
    )
    groups = (
        ("Admin, 127.0.0.1:15000", ENDPOINTS),
        ("Readiness, 127.0.0.1:15021", (READINESS,)),
        ("Metrics, 127.0.0.1:15020", METRICS_ENDPOINTS),
    )
    for title, endpoints in groups:
        yield f"## {title}"
        yield ""
        rows = [
            (
                ", ".join(map(code, one.methods)),
                code(one.path),
                one.help,
                ", ".join(code(f"?{p}") for p in one.parameters),
            )
            for one in endpoints
        ]
        yield from table(("method", "path", "what", "parameters"), rows)


# --- commands ---------------------------------------------------------------------------------------------------


def commands_page() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield from prose(
        "What each command says with `--help`. Exit codes of all of them: 0 done; 1 it ran and the answer is no; "
        "2 wrong usage or configuration; 3 a peer or server could not be reached; 130 interrupted."
    )
    for name in _command_names(cli, ()):
        words = " ".join(("hbone", *name))
        done = CliRunner().invoke(cli, [*name, "--help"], prog_name="hbone", terminal_width=80, color=False)
        yield from [f"## `{words}`", "", "```", done.output.rstrip(), "```", ""]


def _command_names(command: click.Command, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every command, groups before what is in them."""
    yield above
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _command_names(inner, (*above, name))


# --- errors -----------------------------------------------------------------------------------------------------

NOT_PART_OF_IT: Final = ("hbone.bench", "hbone.app.demo", "hbone.proto")


def errors_page() -> Iterator[str]:
    yield "# Errors"
    yield ""
    yield from prose(
        "The tree of errors. *Flag* is the `response_flags` of metrics, *status* what answers a CONNECT that "
        "fails with the error, *exit* what a command ends with, *alert* the TLS alert (RFC 8446 section 6) that "
        "the peer is sent. The texts, with remedies, are in [troubleshooting](../guide/troubleshooting.md)."
    )
    _import_everything()
    rows = [(f"{'&emsp;' * depth}`{kind.__name__}`", *_facts(kind)) for kind, depth in _tree(HboneError, 0)]
    yield from table(("error", "meaning", "flag", "status", "exit", "alert"), rows)
    yield "## TLS alerts of a peer"
    yield ""
    yield from prose("What it means when the peer ended TLS with an alert, as the access line puts it.")
    yield from table(("alert", "number", "why", "what to do"), _alerts())


def _alerts() -> Iterator[tuple[str, str, str, str]]:
    for number in range(256):
        name = alert_name(number)
        if name != f"alert {number}":
            error = failure_from([f"tls alert {name.replace('_', ' ')}"])  # as OpenSSL words it
            yield code(name), str(number), error.why, error.fix


def _import_everything() -> None:
    """An error is known once its module is loaded."""
    for module in pkgutil.walk_packages(hbone.__path__, "hbone."):
        if _is_part_of_it(module.name) and not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of an optional package that is not installed
                importlib.import_module(module.name)


def _is_part_of_it(module: str) -> bool:
    return module.startswith("hbone.") and not any(f"{module}.".startswith(f"{one}.") for one in NOT_PART_OF_IT)


def _tree(kind: type[HboneError], depth: int) -> Iterator[tuple[type[HboneError], int]]:
    """`kind` and what is below it, by name; errors of tests and tools left out."""
    yield kind, depth
    for inner in sorted(kind.__subclasses__(), key=lambda one: one.__name__):
        if _is_part_of_it(inner.__module__):
            yield from _tree(inner, depth + 1)


def _written_at(kind: type[HboneError]) -> str:
    """Its docstring, out of the source: a compiled class has none."""
    source = ast.parse(
        Path(hbone.__file__).parent.joinpath(*kind.__module__.split(".")[1:]).with_suffix(".py").read_text()
    )
    found = (one for one in ast.walk(source) if isinstance(one, ast.ClassDef) and one.name == kind.__name__)
    return ast.get_docstring(next(found)) or ""


def _facts(kind: type[HboneError]) -> tuple[str, str, str, str, str]:
    first = _written_at(kind).partition("\n\n")[0]
    words = " ".join(first.split()).partition(" Attribute")[0].partition(" Subclasses:")[0]
    alert = str(kind.alert) if issubclass(kind, PeerRejected) else ""
    return words, code(kind.flag), str(kind.status), str(kind.exit_code), alert


if __name__ == "__main__":
    sys.exit(main())
