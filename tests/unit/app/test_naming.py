"""What a node's mesh is called, by its settings and its control plane."""

from dataclasses import dataclass
from ipaddress import ip_address

from hbone.addr import SocketAddress
from hbone.app.allow import only
from hbone.app.naming import Naming
from hbone.config.refs import AccountRef
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import DomainNames, SpiffeId, TrustDomain
from hbone.proxy.judge import Facts
from tests.support.pki import SpiffeCA

OLD, NEW, X = TrustDomain("old.test"), TrustDomain("new.test"), TrustDomain("x.test")


@dataclass(frozen=True)
class Told:
    names: DomainNames


def told(own: TrustDomain, *aliases: TrustDomain) -> Told:
    return Told(DomainNames(own, frozenset(aliases)))


def test_names_that_the_control_plane_tells_are_ours_if_one_of_them_is() -> None:
    naming = Naming(DomainNames(OLD))
    naming.learn([told(X)])
    assert naming.now == DomainNames(OLD)
    naming.learn([told(X), told(NEW, OLD)])
    assert naming.now == DomainNames(OLD, frozenset({NEW}))


def test_a_node_that_runs_through_a_whole_rename_knows_itself_afterwards() -> None:
    naming = Naming(DomainNames(OLD))
    for one in (told(OLD, NEW), told(NEW, OLD), told(NEW)):
        naming.learn([one])
    assert NEW in naming.now


def test_aliases_of_the_settings_hold_without_a_control_plane() -> None:
    root = SpiffeCA().cert
    naming = Naming(DomainNames(NEW, frozenset({OLD})))
    assert naming.named(TrustBundle.of(NEW, [root])).roots == {NEW: (root,), OLD: (root,)}
    assert Naming(DomainNames(NEW)).named(TrustBundle.of(NEW, [root])).roots == {NEW: (root,)}


def test_those_who_are_allowed_are_let_in_under_every_name_of_the_mesh_and_of_no_other() -> None:
    naming = Naming(DomainNames(NEW, frozenset({OLD})))
    authorize = only((AccountRef("web", "web"),), naming)
    assert authorize is not None

    def lets_in(identity: str) -> bool:
        address = SocketAddress(ip_address("127.0.0.1"), 80)
        facts = Facts(identity=SpiffeId.parse(identity), source=address, destination=address, workload=None)
        return authorize(facts) is None

    assert lets_in("spiffe://new.test/ns/web/sa/web")
    assert lets_in("spiffe://old.test/ns/web/sa/web")
    assert not lets_in("spiffe://x.test/ns/web/sa/web")
    assert not lets_in("spiffe://new.test/ns/web/sa/other")
