"""`hbone policy`: who may talk to whom, before anybody finds out the hard way."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hbone.cli.failures import DONE, NO
from hbone.cli.output import Command, Format, Style, emit, output_option, styled

if TYPE_CHECKING:
    from hbone.policy.diff import Difference
    from hbone.policy.finding import Finding
    from hbone.policy.model import MeshNames
    from hbone.policy.testing import Outcome
    from hbone.policy.world import World

DIRECTORY = click.Path(path_type=Path)


@click.group()
def policy() -> None:
    """Who may talk to whom: check policies, explain a verdict, test, compare, suggest.

    Policies are Istio's own kinds, PeerAuthentication, AuthorizationPolicy and RequestAuthentication, in a directory
    of YAML files together with the workloads (WorkloadEntry, ServiceEntry, Service).
    """


def mesh_options(command: Command) -> Command:
    """The names of the mesh."""
    for option in (
        click.option("--trust-domain-alias", "aliases", multiple=True, metavar="NAME", help="A former trust domain."),
        click.option(
            "--trust-domain", default="cluster.local", show_default=True, metavar="NAME", help="Of this mesh."
        ),
        click.option(
            "--root-namespace",
            default="istio-system",
            show_default=True,
            metavar="NS",
            help="Policies in it are for the whole mesh.",
        ),
    ):
        command = option(command)
    return command


def _names(options: dict[str, Any]) -> "MeshNames":
    from hbone.errors import UsageError
    from hbone.identity.spiffe import InvalidSpiffeId, parse_trust_domain
    from hbone.policy.model import MeshNames

    given = (
        ("--trust-domain", options["trust_domain"]),
        *(("--trust-domain-alias", one) for one in options["aliases"]),
    )
    for option, domain in given:
        try:
            parse_trust_domain(domain)
        except InvalidSpiffeId as error:
            raise UsageError(f"{option}: {error.what}", fix=error.fix) from error
    return MeshNames(
        root_namespace=options["root_namespace"],
        trust_domain=options["trust_domain"],
        trust_domain_aliases=tuple(options["aliases"]),
    )


# check


@policy.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@mesh_options
@output_option
def check(directory: Path, strict: bool, output: Format, **mesh: Any) -> int:
    """Validate the policies in DIR, and find what is valid but cannot be meant.

    Exit 0: fine, or warnings only; 1: a policy has no effect, or not the one it was written for; 2: invalid, nothing
    of it would be taken.

    \b
    hbone policy check ./mesh
    """
    from hbone.cli.policies import load_world
    from hbone.policy.finding import Level
    from hbone.policy.lint import lint

    world = load_world(directory, _names(mesh))
    findings = lint(world)
    bad = {Level.ERROR, Level.WARNING} if strict else {Level.ERROR}
    empty = not world.subjects and not any(_counts(world).values())
    if empty:
        click.echo(f"warning: {directory} has no policy and no workload; .yaml, .yml and .json are read", err=True)
    ok = not any(finding.level in bad for finding in findings) and not (empty and strict)
    value = {"ok": ok, **_counts(world), "findings": [finding.to_json() for finding in findings]}
    emit(output, value, lambda: "\n".join((*map(_finding, findings), _summary(world, findings))))
    return DONE if ok else NO


def _counts(world: "World") -> dict[str, int]:
    policies = world.policies
    return {
        "authorizationPolicies": len(policies.authorization),
        "peerAuthentications": len(policies.peer),
        "requestAuthentications": len(policies.request),
        "workloads": len(world.subjects),
    }


def _finding(finding: "Finding") -> str:
    styles = {"error": Style.BAD, "warning": Style.WARNING, "note": Style.FAINT}
    word = styled(finding.level.value, styles[finding.level.value], sys.stdout)
    return f"{finding.place}: {word}: {finding.policy} {finding.what}\n  fix: {finding.fix}"


def _summary(world: "World", findings: "tuple[Finding, ...]") -> str:
    counts = _counts(world)
    held = counts["authorizationPolicies"] + counts["peerAuthentications"] + counts["requestAuthentications"]
    levels = [_number(sum(f.level.value == level for f in findings), level) for level in ("error", "warning", "note")]
    return f"{_number(held, 'policy', 'policies')}, {_number(counts['workloads'], 'workload')}: {', '.join(levels)}"


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


# explain


@policy.command()
@click.option("--manifests", type=DIRECTORY, metavar="DIR", help="The mesh's manifests, policies included.")
@click.option("--node", metavar="ADDR:PORT|unix:PATH", help="Ask a running node for what it holds, instead.")
@click.option("--from", "source", metavar="NS/SA|spiffe://…", help="Who calls.")
@click.option("--from-ip", metavar="IP", help="From where.  [default: an address of a workload of that identity]")
@click.option("--plaintext", is_flag=True, help="The caller comes without a tunnel, and so proves no identity.")
@click.option("--to", "target", required=True, metavar="NS/WORKLOAD:PORT", help="Whom; the workload's own port.")
@click.option("--method", metavar="GET", help="With a request: decide as a proxy that reads requests would.")
@click.option("--path", metavar="/items", help="Of the request.")
@click.option("--host", metavar="NAME", help="Of the request.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Of the request (repeatable).")
@click.option("--claim", "claims", multiple=True, metavar="NAME=VALUE", help="Of a verified token: sub=ann.")
@mesh_options
@output_option
def explain(
    *,
    manifests: Path | None,
    node: str | None,
    source: str | None,
    from_ip: str | None,
    plaintext: bool,
    target: str,
    output: Format,
    **rest: Any,
) -> int:
    """Say whether a connection may pass, which rule decides, and why every other policy does not.

    Exit 0: allowed; 1: denied.

    \b
    hbone policy explain --manifests ./mesh --from web/frontend --to shop/cart-0:8080
    hbone policy explain --manifests ./mesh --plaintext --from-ip 10.0.0.9 --to shop/cart-0:8080
    """
    from hbone.addr import InvalidAddress, parse_ip
    from hbone.cli import policies as shared
    from hbone.errors import UsageError
    from hbone.policy.explain import explain as explained

    if (manifests is None) == (node is None):
        raise click.UsageError("name either --manifests DIR or --node ADDR:PORT")
    try:
        ip = parse_ip(from_ip) if from_ip is not None else None
    except InvalidAddress as error:
        raise UsageError(error.what, fix=error.fix) from error
    names = _names(rest)
    request = shared.build_request(rest["method"], rest["path"], rest["host"], rest["headers"], rest["claims"])
    if manifests is not None:
        world = shared.load_world(manifests, names)
        question = shared.ask_question(world, source, ip, target, plaintext=plaintext, request=request)
        said = explained(world, question)
    else:
        if request is not None:
            raise UsageError("a node sees no requests", fix="leave out what speaks of a request, or use --manifests")
        identity = shared.identity_of(source, names, plaintext=plaintext)
        said = shared.explain_node(node or "", identity, ip, target)
    key, port = shared.parse_target(target)
    caller = f"{source or 'a caller'} in plaintext" if plaintext else str(source)
    emit(output, said.to_json(), lambda: "\n".join(shared.explanation_lines(said, key, caller, port)))
    return DONE if said.allowed else NO


# test


@policy.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.argument("tests", metavar="TESTS.yaml", type=DIRECTORY)
@mesh_options
@output_option
def test(directory: Path, tests: Path, output: Format, **mesh: Any) -> int:
    """Run a table of expected verdicts against the policies in DIR.

    Exit 0: all as expected; 1: some are not.

    \b
    cases:
    - name: the front end reaches the cart
      from: {identity: web/frontend}
      to: {workload: shop/cart-0, port: 8080}
      expect: allow
    """
    from hbone.app.sources import read_text
    from hbone.cli.policies import load_world
    from hbone.documents.document import parse_documents
    from hbone.errors import UsageError
    from hbone.policy.testing import parse_tests, run_tests

    table = parse_tests(parse_documents(str(tests), read_text(tests)))
    if not table.cases:
        raise UsageError(f"{tests} has no cases", fix="write cases: [{name: …, from: {…}, to: {…}, expect: allow}]")
    world = load_world(directory, table.names or _names(mesh), without=tests)
    outcomes = run_tests(world, table)
    failed = [outcome for outcome in outcomes if not outcome.passed]
    value = {
        "passed": len(outcomes) - len(failed),
        "failed": len(failed),
        "cases": [outcome.to_json() for outcome in outcomes],
    }
    emit(output, value, lambda: "\n".join((*map(_failed, failed), _tested(len(outcomes), len(failed)))))
    return NO if failed else DONE


def _failed(outcome: "Outcome") -> str:
    from hbone.cli.policies import explanation_lines

    case = outcome.case
    head = styled("FAILED", Style.BAD, sys.stdout)
    caller = case.identity or "a caller"
    caller = f"{caller} in plaintext" if case.transport.value == "plaintext" else caller
    lines = explanation_lines(outcome.explanation, case.workload, caller, case.port)
    body = "\n".join(f"  {line}" if line else "" for line in lines)
    return f"{head}  {case.place}: {case.name}: expected {case.expect.value}\n{body}\n"


def _tested(count: int, failed: int) -> str:
    return f"{count - failed} of {count} as expected" + (f", {failed} not" if failed else "")


# diff


@policy.command()
@click.argument("old", metavar="OLD", type=DIRECTORY)
@click.argument("new", metavar="NEW", type=DIRECTORY)
@click.option("--traffic", required=True, type=DIRECTORY, metavar="access.log", help="An access log; - for stdin.")
@mesh_options
@output_option
def diff(old: Path, new: Path, traffic: Path, output: Format, **mesh: Any) -> int:
    """Which of the connections in an access log would get another verdict under NEW than under OLD.

    Both are directories of manifests. Exit 0: none; 1: some would.

    \b
    hbone policy diff ./mesh ./mesh-next --traffic access.log
    """
    from hbone.cli.policies import load_traffic, load_world
    from hbone.policy.diff import compare

    names = _names(mesh)
    seen = load_traffic(traffic)
    difference = compare(load_world(old, names), load_world(new, names), seen)
    value = {**difference.to_json(), "unused": seen.unused}
    emit(output, value, lambda: _difference(difference, seen.unused))
    return NO if difference.changed else DONE


def _difference(difference: "Difference", unused: dict[str, int]) -> str:
    from hbone.cli.output import table

    rows = [
        (
            f"{one.before.verdict.value} → {one.after.verdict.value}",
            one.seen.caller,
            f"{one.workload}:{one.seen.port}",
            one.count,
            one.after.reason,
        )
        for one in difference.changed
    ]
    lines = [table(("verdict", "from", "to", "seen", "because"), rows)] if rows else []
    changed = sum(one.count for one in difference.changed)
    lines.append(f"{_number(changed, 'connection')} would change, {difference.unchanged} would not")
    if difference.unknown:
        lines.append(f"{_number(difference.unknown, 'connection')} to workloads that the manifests do not have")
    lines += [f"{_number(count, 'line')} not used: {reason}" for reason, count in unused.items()]
    return "\n".join(lines)


# suggest


@policy.command()
@click.option("--traffic", required=True, type=DIRECTORY, metavar="access.log", help="An access log; - for stdin.")
@click.option("--manifests", type=DIRECTORY, metavar="DIR", help="The workloads, whose labels make policies narrow.")
@click.option(
    "-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True, help="How to print."
)
@mesh_options
def suggest(traffic: Path, manifests: Path | None, output: str, **mesh: Any) -> None:
    """Propose the least ALLOW policies that permit what an access log saw pass.

    What a policy denied is left out. With --manifests there is one for each kind of workload, without one for each
    namespace. Look through them before you apply them: what was not seen will be denied.

    \b
    hbone policy suggest --traffic access.log --manifests ./mesh > allow.yaml
    """
    import json

    import yaml

    from hbone.cli.policies import load_traffic, load_world
    from hbone.policy.manifests import Policies
    from hbone.policy.suggest import left_out
    from hbone.policy.suggest import suggest as suggested
    from hbone.policy.world import World

    names = _names(mesh)
    seen = load_traffic(traffic)
    empty = World(names=names, policies=Policies(), subjects=())
    world = load_world(manifests, names) if manifests is not None else empty
    found = suggested(seen, world)
    if output == "json":
        click.echo(json.dumps([one.manifest for one in found], indent=2, ensure_ascii=False))
    for one in found if output == "yaml" else ():
        click.echo("---")
        for note in one.notes:
            click.echo(f"# {note}")
        click.echo(
            yaml.safe_dump(one.manifest, sort_keys=False, allow_unicode=True, default_flow_style=False), nl=False
        )
    click.echo(f"{_number(len(found), 'policy', 'policies')} from {_number(seen.connections, 'connection')}", err=True)
    for reason, count in left_out(seen, world).items():
        click.echo(f"{_number(count, 'connection')} left out: {reason}", err=True)
    if seen.denied:
        click.echo(f"{_number(sum(seen.denied.values()), 'connection')} left out: denied by a policy", err=True)
    for reason, count in seen.unused.items():
        click.echo(f"{_number(count, 'line')} not used: {reason}", err=True)
