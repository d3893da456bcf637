"""A machine's membership: what it keeps on disk, how it got it, how it stays.

`enrol` turns a join token into a membership. From then on the current certificate proves who the machine is:
`Member` is a source of certificates that shows it when it asks for the next one, and keeps what it gets in files, so
that a restart needs neither a token nor a control plane that answers at once.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self, cast

from cryptography.hazmat.primitives.serialization import Encoding

from hbone.control.ca_client import CaClient
from hbone.control.credentials import Credentials
from hbone.control.kept_grant import document, kept_for
from hbone.control.keys import write_whole
from hbone.control.lease import Granted, Wish
from hbone.control.nodes import control_identity, node_of
from hbone.control.pinning import pinned_root
from hbone.control.statedir import intrusions, make_private
from hbone.control.tls_endpoint import Roots, TlsEndpoint, parse_control_address
from hbone.control.tokens import JoinToken
from hbone.errors import HboneError, InvalidConfiguration, UsageError
from hbone.identity.bundle import InvalidBundle, TrustBundle
from hbone.identity.rotation import has_ended
from hbone.identity.spiffe import DomainNames, InvalidSpiffeId, SpiffeId, parse_trust_domain
from hbone.identity.svid import InvalidSvid, X509Svid
from hbone.times import Clock
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

MEMBER, CREDENTIALS, ROOTS, GRANTED = "member.json", "credentials.pem", "roots.pem", "granted.json"
_END_OF_KEY: Final = b"-----END PRIVATE KEY-----\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Of which mesh, as what. `address` is HOST:PORT of the control plane; `group` the WorkloadGroup that the machine
    registers as a member of, empty for none. `called`: what the mesh said that it is called, None for nothing yet."""

    address: str
    identity: SpiffeId
    group: str = ""
    called: DomainNames | None = None

    @property
    def names(self) -> DomainNames:
        """Of the mesh, as far as is known."""
        return self.called or DomainNames(self.identity.trust_domain)

    @property
    def renamed(self) -> SpiffeId | None:
        """What this machine is under the mesh's present name, None if that is what it is."""
        wanted = SpiffeId(self.names.own, self.identity.path)
        return wanted if wanted != self.identity else None

    @property
    def node(self) -> str:
        """The node's name, empty for a machine that is one workload."""
        return node_of(self.identity)

    @property
    def place(self) -> tuple[str, int]:
        return parse_control_address(self.address)


class Member:
    """A membership with its files. A source of certificates (`SvidSource`) for the machine's own identity and, for a
    node, for what is placed on it."""

    def __init__(self, membership: Membership, directory: Path, credentials: Credentials, clock: Clock) -> None:
        self.membership = membership
        self.directory = directory
        self._credentials = credentials
        self._clock = clock
        self._kept = True  # what we hold is from disk, and nobody has asked for it yet
        self.ttl_s = 86_400.0
        self.holder = ""

    @classmethod
    def load(cls, directory: Path, clock: Clock) -> Self | None:
        """What an earlier join left; None if there was none. Raises UsageError, InvalidConfiguration."""
        if not (directory / MEMBER).exists():
            return None
        try:
            problems = [*intrusions(directory, "0700"), *intrusions(directory / CREDENTIALS, "0600")]
            if problems:
                raise InvalidConfiguration(problems)
            membership = _membership((directory / MEMBER).read_bytes())
            credentials = _credentials(directory, membership.identity)
            membership = replace(membership, identity=credentials.svid.spiffe_id)
        except OSError as error:
            raise UsageError(f"{error.filename} cannot be read", why=error.strerror or "", fix=_AGAIN) from error
        except (InvalidSvid, InvalidBundle, InvalidSpiffeId, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"what is kept in {directory} is damaged", why=str(error)[:200], fix=_AGAIN) from error
        if has_ended(credentials.svid, clock.wall()):
            raise UsageError(
                f"this machine's certificate ended at {credentials.svid.leaf.not_valid_after_utc:%FT%TZ}",
                why="it was off, or could not reach the control plane, for longer than that lasts",
                fix=_AGAIN,
            )
        return cls(membership, directory, credentials, clock)

    @property
    def svid(self) -> X509Svid:
        """The machine's own, the newest."""
        return self._credentials.svid

    @property
    def endpoint(self) -> TlsEndpoint:
        """The control plane, shown our certificate."""
        found = endpoint_of(self.membership, str(self.directory / ROOTS), lambda: self.svid)
        return replace(found, also=self._control_identities)

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        """Raises HboneError."""
        own = spiffe_id == self.membership.identity
        if own and self._kept and not has_ended(self.svid, self._clock.wall()):
            self._kept = False
            return self._credentials
        client = CaClient(self.endpoint, ttl_s=self.ttl_s, holder=self.holder, own=self.membership.identity)
        credentials = await client.fetch(spiffe_id)
        if own:
            self._credentials = credentials
            await asyncio.to_thread(self._keep, credentials)
        return credentials

    async def take_name(self) -> None:
        """If the mesh has got another name: go by it from now on. Raises HboneError, with nothing changed."""
        wanted, membership = self.membership.renamed, self.membership
        if wanted is None:
            return
        client = CaClient(self.endpoint, ttl_s=self.ttl_s, holder=self.holder, own=membership.identity)
        self._credentials = await client.fetch(wanted)
        self.membership = replace(membership, identity=wanted)
        await asyncio.to_thread(self._keep, self._credentials)

    def granted(self, wish: Wish) -> Granted | None:
        """What this machine was granted for the same wish before; None if nothing is kept of that."""
        try:
            return kept_for(wish, (self.directory / GRANTED).read_bytes())
        except OSError:
            return None

    def keep_grant(self, wish: Wish, granted: Granted) -> None:
        self._write(GRANTED, document(wish, granted))

    def trust(self, bundle: TrustBundle) -> None:
        """The mesh has other roots or names now: the next connection to the control plane is judged by these."""
        self._keep_roots(bundle)
        domain = self.membership.identity.trust_domain
        names = bundle.names_of(domain)
        if domain in bundle.domains and names != self.membership.names:
            self.membership = replace(self.membership, called=names)
            self._write(MEMBER, _document(self.membership))

    def _control_identities(self) -> frozenset[SpiffeId]:
        """What the control plane may show, whichever of the mesh's names it goes by now."""
        names = self.membership.names
        return frozenset(names.forms(control_identity(names.own)))

    def _keep(self, credentials: Credentials) -> None:
        self._write(CREDENTIALS, credentials.svid.key_pem() + credentials.svid.chain_pem())
        self._keep_roots(credentials.bundle)

    def _keep_roots(self, bundle: TrustBundle) -> None:
        pem = bundle.pem(self.membership.identity.trust_domain)
        if pem:
            self._write(ROOTS, pem)

    def _write(self, name: str, content: bytes) -> None:
        """A disk that is full costs a restart its certificate, and the running node nothing."""
        try:
            write_whole(self.directory / name, content, 0o600)
        except OSError as error:
            log.warning("membership not kept", extra={"file": name, "why": error.strerror or str(error)})


async def enrol(token: JoinToken, directory: Path, clock: Clock, *, ttl_s: float) -> Member:
    """Use a token up; raises UsageError, Unreachable, WrongPin, ControlRefused."""
    membership = Membership(address=token.address, identity=token.identity, group=token.group)
    host, port = membership.place
    await asyncio.to_thread(make_private, directory)
    root = await pinned_root(host, port, token.pin)
    pem = root.public_bytes(Encoding.PEM).decode()
    endpoint = endpoint_of(membership, pem)
    joining = TlsEndpoint(
        host=host,
        port=port,
        roots=endpoint.roots,
        identity=endpoint.identity,
        authorization=lambda: token.credential,
    )
    credentials = await CaClient(joining, ttl_s=ttl_s, own=token.identity).fetch(token.identity)
    member = Member(membership, directory, credentials, clock)
    try:
        await asyncio.to_thread(_found, member, credentials)
    except OSError as error:
        raise UsageError(
            f"the membership cannot be kept in {directory}",
            why=error.strerror or str(error),
            fix="make room, join again",
        ) from error
    return member


def endpoint_of(
    membership: Membership, roots: str, certificate: Callable[[], X509Svid | None] | None = None
) -> TlsEndpoint:
    """The mesh's control plane: known by its identity, wherever it is."""
    host, port = membership.place
    return TlsEndpoint(
        host=host,
        port=port,
        roots=Roots(roots),
        identity=control_identity(membership.identity.trust_domain),
        certificate=certificate,
    )


_AGAIN: Final = "join again with a new token: `hbone token create` beside the control plane"


def _found(member: Member, credentials: Credentials) -> None:
    """All files, the one that says "there is a membership" last."""
    directory, svid = member.directory, credentials.svid
    write_whole(directory / CREDENTIALS, svid.key_pem() + svid.chain_pem(), 0o600)
    write_whole(directory / ROOTS, credentials.bundle.pem(svid.spiffe_id.trust_domain), 0o600)
    write_whole(directory / MEMBER, _document(member.membership), 0o600)


def _document(membership: Membership) -> bytes:
    """A membership as it is kept."""
    document: dict[str, Any] = {
        "address": membership.address,
        "identity": str(membership.identity),
        "group": membership.group,
    }
    if membership.called is not None:
        document["trust_domain"] = membership.called.own
        document["trust_domain_aliases"] = sorted(membership.called.aliases)
    return json.dumps(document, indent=2).encode() + b"\n"


def _membership(content: bytes) -> Membership:
    document = cast("dict[str, Any]", json.loads(content))
    called = None
    if "trust_domain" in document:
        aliases = frozenset(parse_trust_domain(str(alias)) for alias in document["trust_domain_aliases"])
        called = DomainNames(parse_trust_domain(str(document["trust_domain"])), aliases)
    return Membership(
        address=str(document["address"]),
        identity=SpiffeId.parse(str(document["identity"])),
        group=str(document.get("group", "")),
        called=called,
    )


def _credentials(directory: Path, identity: SpiffeId) -> Credentials:
    key, end, chain = (directory / CREDENTIALS).read_bytes().partition(_END_OF_KEY)
    svid = X509Svid.from_pem(chain, key + end)
    if svid.spiffe_id.path != identity.path:  # the trust domain may be the newer of the mesh's names
        raise ValueError(f"the certificate is of {svid.spiffe_id}, not {identity}")
    bundle = TrustBundle.from_pem(svid.spiffe_id.trust_domain, (directory / ROOTS).read_bytes())
    return Credentials(svid=svid, bundle=bundle)


def same_mesh(member: Member, token: JoinToken) -> HboneError | None:
    """Why a machine that is a member already may not use this token; None if it may."""
    if member.membership.identity == token.identity:
        return None
    return UsageError(
        f"this machine is {member.membership.identity} already",
        why=f"the token is for {token.identity}",
        fix=f"give another --state-dir, or end this membership first: remove {member.directory}",
    )
