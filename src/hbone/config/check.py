"""What must fit together across settings; each rule is a line of the lists below.

A `Problem` here has only its field; `load.py` adds file and line.
"""

from collections.abc import Callable, Iterator

from hbone.config.federated import FederatedDomain
from hbone.config.listen import Listen, TcpListen, listens_collide
from hbone.config.model import ControlSettings, NodeSettings
from hbone.config.sections import Http2
from hbone.errors import Problem


def check_node(settings: NodeSettings) -> tuple[Problem, ...]:
    """Everything in `settings` that contradicts something else."""
    return tuple(problem for rule in _NODE_RULES for problem in rule(settings))


def check_control(settings: ControlSettings) -> tuple[Problem, ...]:
    """Everything in `settings` that contradicts something else."""
    return tuple(problem for rule in _CONTROL_RULES for problem in rule(settings))


def _mode(node: NodeSettings) -> Iterator[Problem]:
    if node.mode == "dedicated" and node.workload is None:
        fix = "add workload: NAMESPACE/NAME/ACCOUNT, or PROXY_WORKLOAD_INFO"
        yield Problem(what="a dedicated node needs to know whom it works for", fix=fix, field="workload")
    if node.mode == "shared" and node.workload is not None:
        fix = "remove it, or write mode: dedicated"
        yield Problem(what="a shared node works for many workloads, not for one", fix=fix, field="workload")
    alone = node.ca is not None  # else the control plane that issues certificates tells the mesh too
    if alone and node.mode == "shared" and node.manifests is None and node.local_xds is None:
        fix = "add manifests: DIRECTORY or local_xds: FILE, or for a single workload: workload: NAMESPACE/NAME/ACCOUNT"
        yield Problem(
            what="a shared node knows workloads from manifests, and there are none", fix=fix, field="manifests"
        )


def _identity_source(node: NodeSettings) -> Iterator[Problem]:
    if node.ca is not None and node.control_socket is not None:
        fix = "keep ca to issue certificates here, or control_socket to ask a running `hbone up`"
        yield Problem(what="certificates cannot come from two places", fix=fix, field="control_socket")


def _control_plane(node: NodeSettings) -> Iterator[Problem]:
    given = [name for name in ("ca", "control_socket", "ca_address") if getattr(node, name) is not None]
    if "ca_address" in given and len(given) > 1:
        yield Problem(what=f"certificates cannot come from {given[0]} too", fix="keep one of them", field="ca_address")


def _forwards(node: NodeSettings) -> Iterator[Problem]:
    for index, forward in enumerate(node.forwards):
        field = f"forwards[{index}].as"
        if forward.account is None and node.mode == "shared":
            fix = "add as: NAMESPACE/ACCOUNT"
            yield Problem(what="a shared node has no identity of its own to forward with", fix=fix, field=field)
        if forward.account and node.workload and forward.account != node.workload.account:
            fix = f"write {node.workload.account} or leave it out"
            yield Problem(what=f"a dedicated node cannot act as {forward.account}", fix=fix, field=field)


def _ipv6(node: NodeSettings) -> Iterator[Problem]:
    if node.ipv6_enabled:
        return
    for name in type(node.listeners).model_fields:
        listen: object = getattr(node.listeners, name)
        if isinstance(listen, TcpListen) and listen.address.ip.version == 6:
            fix = f"write 0.0.0.0:{listen.address.port} or another IPv4 address, or ipv6_enabled: true"
            yield Problem(what=f"{listen} is IPv6, which is switched off", fix=fix, field=f"listeners.{name}")


def _aliases(settings: NodeSettings | ControlSettings) -> Iterator[Problem]:
    for index, alias in enumerate(settings.trust_domain_aliases):
        if alias == settings.trust_domain:
            yield Problem(
                what="this is the trust domain itself", fix="remove it", field=f"trust_domain_aliases[{index}]"
            )


def _exposes(node: NodeSettings) -> Iterator[Problem]:
    seen: dict[tuple[str, int], int] = {}
    for index, expose in enumerate(node.exposes):
        first = seen.setdefault((str(expose.workload), expose.port), index)
        if first != index:
            what = f"port {expose.port} of {expose.workload} is given twice, first in exposes[{first}]"
            yield Problem(what=what, fix="keep one of them", field=f"exposes[{index}]")


def _listeners(node: NodeSettings) -> Iterator[Problem]:
    sections = node.listeners
    given: list[tuple[str, Listen | None]] = [
        (f"listeners.{name}", getattr(sections, name)) for name in type(sections).model_fields
    ]
    given += [(f"forwards[{index}].listen", forward.listen) for index, forward in enumerate(node.forwards)]
    open_ones = [(field, listen) for field, listen in given if listen is not None]
    for index, (field, listen) in enumerate(open_ones):
        for other_field, other in open_ones[:index]:
            if listens_collide(other, listen):
                fix = "give each a port of its own, or write off"
                yield Problem(what=f"{listen} is taken by {other_field} ({other})", fix=fix, field=field)
    carrying = (sections.inbound, sections.inbound_plaintext, sections.outbound, sections.socks)
    if not node.forwards and all(listen is None for listen in carrying):
        fix = "turn on listeners.inbound or listeners.socks, or add to forwards"
        yield Problem(what="nothing to do: no listener carries traffic", fix=fix, field="listeners")


def _windows(http2: Http2) -> Iterator[Problem]:
    if http2.connection_window_bytes < http2.stream_window_bytes:
        yield Problem(
            what="smaller than stream_window_bytes: one unread stream would stop all others of its tunnel",
            fix=f"write {http2.stream_window_bytes * 4} (four streams' windows) or more",
            field="http2.connection_window_bytes",
        )


def _private(field: str, listen: Listen | None) -> Iterator[Problem]:
    if isinstance(listen, TcpListen) and not listen.address.ip.is_loopback:
        yield Problem(
            what=f"{listen} can be reached by others, and whoever reaches it controls this process",
            fix=f"write 127.0.0.1:{listen.address.port}, unix:/path or off",
            field=field,
        )


def _lifetimes(control: ControlSettings) -> Iterator[Problem]:
    if control.svid_ttl_s > control.max_svid_ttl_s:
        yield Problem(what="longer than max_svid_ttl_s", fix="raise that, or lower this", field="svid_ttl_s")
    if control.max_svid_ttl_s > control.intermediate_ttl_s:
        fix = "no certificate outlives its issuer: lower this, or raise that"
        yield Problem(what="longer than intermediate_ttl_s", fix=fix, field="max_svid_ttl_s")
    if control.intermediate_ttl_s > control.root_ttl_s:
        fix = "no certificate outlives its issuer: lower this, or raise that"
        yield Problem(what="longer than root_ttl_s", fix=fix, field="intermediate_ttl_s")


def _plaintext(control: ControlSettings) -> Iterator[Problem]:
    listen = control.listeners.control_plaintext
    if isinstance(listen, TcpListen) and not listen.address.ip.is_loopback:
        fix = f"write 127.0.0.1:{listen.address.port}, or use control_tls"
        yield Problem(what="tokens would go over the network in clear", fix=fix, field="listeners.control_plaintext")


def _issuers(control: ControlSettings) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, one in enumerate(control.jwt_issuers):
        first = seen.setdefault(one.issuer, index)
        if first != index:
            what = f"the issuer is given twice, first in jwt_issuers[{first}]"
            yield Problem(what=what, fix="keep one of them", field=f"jwt_issuers[{index}].issuer")
        if not one.audiences:
            fix = "write whom its tokens must be for, for example [istio-ca]"
            yield Problem(what="tokens for anybody would be taken", fix=fix, field=f"jwt_issuers[{index}].audiences")


def _processes(node: NodeSettings) -> Iterator[Problem]:
    if node.attest and node.workload_socket is None:
        fix = "write workload_socket: /run/hbone/workload.sock"
        yield Problem(what="no process can ask for an identity", fix=fix, field="attest")
    if node.workload_socket is not None and not node.attest:
        fix = "write who has which identity, for example attest: [{as: shop/cart, uid: 1001}]"
        yield Problem(what="no process would have an identity", fix=fix, field="workload_socket")
    if node.workload_socket is not None and node.workers != 1:
        fix = "write workers: 1, or run a second node for it"
        yield Problem(what="only a node of one process serves it", fix=fix, field="workload_socket")


def _rules_of_attestation(settings: ControlSettings | NodeSettings) -> Iterator[Problem]:
    for index, rule in enumerate(settings.attest):
        if rule.uid is None and rule.gid is None and rule.pid is None and not rule.cgroup and not rule.program:
            fix = "add uid, gid, pid, cgroup or program"
            yield Problem(what="every process would have this identity", fix=fix, field=f"attest[{index}]")


def _bundle_endpoint(control: ControlSettings) -> Iterator[Problem]:
    endpoint = control.bundle_endpoint
    web = endpoint.profile == "https_web"
    for name in ("certificate", "certificate_key"):
        given = getattr(endpoint, name) is not None
        if web and not given:
            fix = "name a PEM file, or write profile: https_spiffe"
            yield Problem(what="https_web needs it", fix=fix, field=f"bundle_endpoint.{name}")
        if given and not web:
            fix = "write profile: https_web, or leave it out: https_spiffe has the control plane's own certificate"
            yield Problem(what="without effect", fix=fix, field=f"bundle_endpoint.{name}")


def _federation(control: ControlSettings) -> Iterator[Problem]:
    seen: dict[str, int] = {}
    for index, one in enumerate(control.federation):
        place = f"federation[{index}]"
        first = seen.setdefault(one.trust_domain, index)
        if first != index:
            what = f"{one.trust_domain} is given twice, first in federation[{first}]"
            yield Problem(what=what, fix="keep one of them", field=f"{place}.trust_domain")
        if one.trust_domain == control.trust_domain:
            yield Problem(what="this is our own trust domain", fix="remove it", field=f"{place}.trust_domain")
        ours = {control.trust_domain, *control.trust_domain_aliases}
        others = {other.trust_domain for other in control.federation}
        for number, alias in enumerate(one.trust_domain_aliases):
            if alias in ours | others:
                fix = "keep one: an alias is the same trust domain under a further name"
                field = f"{place}.trust_domain_aliases[{number}]"
                yield Problem(what=f"{alias} is a trust domain of its own here", fix=fix, field=field)
        yield from _partner(one, place)


def _partner(one: FederatedDomain, place: str) -> Iterator[Problem]:
    if one.url is None and one.bundle is None:
        yield Problem(what="nothing says where its bundle is", fix="add url, or bundle: FILE", field=place)
    web = one.profile == "https_web"
    if web and one.endpoint_spiffe_id is not None:
        fix = "write profile: https_spiffe, or leave it out"
        yield Problem(what="https_web goes by the host name", fix=fix, field=f"{place}.endpoint_spiffe_id")
    if not web and one.roots is not None:
        fix = "write profile: https_web, or give the first bundle as `bundle`"
        yield Problem(what="https_spiffe goes by the domain's own bundle", fix=fix, field=f"{place}.roots")
    serves_itself = one.endpoint_spiffe_id is None or one.endpoint_spiffe_id.trust_domain == one.trust_domain
    if one.url is not None and not web and serves_itself and one.bundle is None:
        fix = "get its bundle by a way that you trust (there: `hbone bundle show -o spiffe`), and name the file"
        yield Problem(what="nothing vouches for the first fetch", fix=fix, field=f"{place}.bundle")


_NODE_RULES: tuple[Callable[[NodeSettings], Iterator[Problem]], ...] = (
    _mode,
    _identity_source,
    _control_plane,
    _aliases,
    _ipv6,
    _forwards,
    _exposes,
    _listeners,
    _processes,
    _rules_of_attestation,
    lambda node: _windows(node.http2),
    lambda node: _private("listeners.admin", node.listeners.admin),
)
_CONTROL_RULES: tuple[Callable[[ControlSettings], Iterator[Problem]], ...] = (
    _lifetimes,
    _aliases,
    lambda control: _private("listeners.admin", control.listeners.admin),
    _plaintext,
    _issuers,
    _rules_of_attestation,
    _bundle_endpoint,
    _federation,
)
