"""What an operator can ask of the CA: one list of operations, used by the service on the socket and, where no control
plane runs, by the command itself.

Requests and answers are the messages of `hbone.control.v1.Admin`.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Final

import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from hbone.ca.crl import may_sign
from hbone.ca.generations import Generation, Generations, Phase
from hbone.ca.material import KNOWN_FILES, authority_from
from hbone.control import audit, federated_rows, records
from hbone.control.caplane import CaPlane
from hbone.control.federation import FederatedView, stored_views
from hbone.control.records import CertificateRecord
from hbone.control.revoker import Done, Key, NothingToRevoke, Serial, Target
from hbone.control.rotation import NodeView, Rotation, RotationView
from hbone.errors import UsageError
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import wall_time
from hbone.proto.admin_pb2 import (
    AuditLine,
    Authority,
    CaStatusResponse,
    Certificate,
    FederatedDomain,
    ImportCaRequest,
    ListAuditRequest,
    ListAuditResponse,
    ListCertificatesRequest,
    ListCertificatesResponse,
    NodeTrust,
    RestoreRequest,
    RevokeRequest,
    RevokeResponse,
    RotateRootRequest,
)
from hbone.proto.trust_pb2 import TrustBundle
from hbone.times import WallTime

_PAGE: Final = 500
_WATCH_S: Final = 0.1
IN_FORCE_S: Final = 2.0
_SOON: Final = 0.2  # of an authority's life


class Admin:
    """On an open CA; `rotation` is what is being asked of its root. `federated`: the other trust domains as they are
    looked after; None where nobody does, and only what is on disk is known."""

    def __init__(
        self, ca: CaPlane, rotation: Rotation, federated: Callable[[], Sequence[FederatedView]] | None = None
    ) -> None:
        self._ca = ca
        self._rotation = rotation
        self._federated = federated

    # --- the CA's life ----------------------------------------------------------------------------------------

    async def status(self) -> CaStatusResponse:
        ca, now = self._ca, self._ca.place.clock.wall()
        view = await self._rotation.view()
        used = await ca.store.read(lambda database: records.count_in_use(database, now))
        generations, current, nodes = ca.authorities.now, ca.trust.current, self._rotation.nodes()
        federated = await ca.store.read(stored_views) if self._federated is None else self._federated()
        response = CaStatusResponse(
            trust_domain=generations.active.authority.trust_domain,
            authorities=[_authority(one, used.get(one.number, 0)) for one in generations.by_number.values()],
            nodes=[_node(one) for one in nodes],
            certificates_in_use=sum(used.values()),
            revoked_serials=sum(len(found) for found in current.revocations.serials.values()),
            revoked_keys=len(current.revocations.keys),
            revoked_identities=sum(1 for one in current.revocations.identities.values() if one.before is None),
            bundle_sequence=current.sequence,
            warnings=[*_warnings(generations, nodes, now), *_unheard(federated)],
            federated=[_federated(one) for one in federated],
        )
        response.rotation.phase = generations.phase.value
        if view.phase is generations.phase:  # else it went on while we asked
            response.rotation.waiting.extend(_waiting(view))
        response.rotation.paused = view.paused
        return response

    async def watch(self) -> AsyncGenerator[CaStatusResponse]:
        """The status now, and whenever it is another one, until no rotation goes on by itself any more."""
        last = b""
        while True:
            status = await self.status()
            seen = status.SerializeToString(deterministic=True)
            if seen != last:
                last = seen
                yield status
            if status.rotation.phase == Phase.NONE.value or status.rotation.paused:
                return
            await asyncio.sleep(_WATCH_S)

    async def rotate_intermediate(self) -> CaStatusResponse:
        await self._rotation.renew_intermediate()
        return await self.status()

    async def rotate_root(self, request: RotateRootRequest) -> CaStatusResponse:
        match request.action:
            case RotateRootRequest.BACK:
                await self._rotation.back()
            case RotateRootRequest.RECOVER:
                await self._rotation.recover()
            case RotateRootRequest.FORCE:
                await self._rotation.force()
            case _:
                await self._rotation.forward()
        return await self.status()

    async def import_ca(self, request: ImportCaRequest) -> CaStatusResponse:
        """An authority from files: at once if its root is trusted already, else by a rotation of the root."""
        ca = self._ca
        if ca.place.plugged is not None:
            raise UsageError(
                "this CA is plugged in as a directory of files (`--ca`)",
                fix="replace the files there and start again, or run without --ca and import them",
            )
        files = {name: content for name, content in request.files.items() if name in KNOWN_FILES}
        authority = authority_from(files, ca.place.trust_domain, now=ca.place.clock.wall())
        generations = ca.authorities.now
        if any(one.authority.signer == authority.signer for one in generations.by_number.values()):
            raise UsageError("this CA has that signing certificate already", fix="see `hbone ca status`")
        await ca.authorities.adopt(authority)
        if set(authority.roots) <= set(generations.roots):
            await ca.authorities.add(authority, Generations.with_intermediate, "intermediate imported")
            await ca.trust.publish()
        else:
            await ca.authorities.add(authority, Generations.prepare, "root imported")
            await self._rotation.forward()
        return await self.status()

    async def bundle(self) -> TrustBundle:
        return self._ca.trust.current.message()

    async def document(self, trust_domain: str = "") -> str:
        """A SPIFFE bundle document: ours, or the last good one of another trust domain. Raises UsageError."""
        if trust_domain in {"", self._ca.place.trust_domain}:
            return self._ca.document()
        for row in await self._ca.store.read(federated_rows.stored):
            if row.domain == trust_domain:
                return row.document
        raise UsageError(
            f"no bundle of trust domain {trust_domain[:200]} is known here",
            why=f"this mesh is {self._ca.place.trust_domain}",
            fix="`hbone ca status` lists those that are",
        )

    # --- certificates -----------------------------------------------------------------------------------------

    async def certificates(self, request: ListCertificatesRequest) -> AsyncGenerator[ListCertificatesResponse]:
        now = self._ca.place.clock.wall()
        wanted = records.Wanted(
            spiffe_id=request.spiffe_id,
            revoked=True if request.revoked_only else None,
            now=None if request.include_ended else now,
            limit=request.limit or 10_000,
        )
        found = await self._ca.store.read(lambda database: records.find(database, wanted))
        for start in range(0, len(found), _PAGE):
            page = found[start : start + _PAGE]
            yield ListCertificatesResponse(certificates=[_certificate(one, now) for one in page])

    async def revoke(self, request: RevokeRequest) -> RevokeResponse:
        done = await self._ca.revoke(_target(request), request.reason or "unspecified")
        return await self._told(done)

    async def restore(self, request: RestoreRequest) -> RevokeResponse:
        return await self._told(await self._ca.restore(SpiffeId.parse(request.spiffe_id)))

    async def _told(self, done: Done) -> RevokeResponse:
        """Wait a moment for the nodes' acknowledgements, so that the answer can say where it is in force."""
        await self._rotation.wait_in_force(IN_FORCE_S)
        nodes = self._rotation.nodes()
        return RevokeResponse(
            what=done.what,
            certificates=done.certificates,
            nodes=len(nodes),
            nodes_current=sum(1 for one in nodes if one.current),
        )

    # --- the audit log ----------------------------------------------------------------------------------------

    async def audit(self, request: ListAuditRequest) -> AsyncGenerator[ListAuditResponse]:
        """Lines in order, and at the end whether the log is whole."""
        after, left = request.after, request.limit or 1_000_000
        while left > 0:
            page = await self._ca.store.read(_page(after, min(left, _PAGE)))
            if not page:
                break
            lines = [AuditLine(number=one.number, line=orjson.dumps(dict(one.values)).decode()) for one in page]
            yield ListAuditResponse(lines=lines)
            after, left = page[-1].number, left - len(page)
        fault = await self._ca.store.read(audit.first_fault)
        yield ListAuditResponse(first_fault=fault or 0)


def parse_key_hash(text: str) -> bytes:
    """64 hexadecimal digits, with or without colons and a leading "sha256:"; raises NothingToRevoke."""
    digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
    try:
        found = bytes.fromhex(digits)
    except ValueError:
        found = b""
    if len(found) != 32:
        raise NothingToRevoke(
            f"{text[:80]!r} is no SHA-256 of a public key", fix="give 64 hexadecimal digits, as `hbone cert list` does"
        )
    return found


def _target(request: RevokeRequest) -> Target:
    match request.WhichOneof("target"):
        case "serial":
            return Serial(serial=_serial(request.serial))
        case "spiffe_id":
            return SpiffeId.parse(request.spiffe_id)
        case "key_sha256":
            return Key(sha256=parse_key_hash(request.key_sha256))
        case _:
            raise NothingToRevoke("nothing to revoke was named", fix="give a serial number, a SPIFFE ID or a key hash")


def _serial(text: str) -> int:
    try:
        return int(text.replace(":", ""), 16)
    except ValueError as error:
        raise NothingToRevoke(
            f"{text[:80]!r} is no serial number", fix="give hexadecimal digits, as `hbone cert list` does"
        ) from error


def _page(after: int, limit: int) -> Callable[[sqlite3.Connection], list[audit.AuditLine]]:
    return lambda database: audit.lines(database, after=after, limit=limit)


def _authority(one: Generation, used: int) -> Authority:
    authority = one.authority
    return Authority(
        number=one.number,
        state=one.state.value,
        since=one.since,
        signer=_name(authority.signer),
        not_after=wall_time(authority.signer.not_valid_after_utc),
        root=_name(one.root),
        root_sha256=one.root.fingerprint(hashes.SHA256()).hex(),
        root_not_after=wall_time(one.root.not_valid_after_utc),
        certificates_in_use=used,
        has_root_key=authority.root_key is not None,
    )


def _node(one: NodeView) -> NodeTrust:
    return NodeTrust(node=one.node, caller=one.caller, current=one.current, aware=one.aware, refused=one.refused)


def _federated(one: FederatedView) -> FederatedDomain:
    document = one.document
    return FederatedDomain(
        trust_domain=one.domain,
        source=one.source,
        sequence=None if document is None else document.sequence,
        roots=0 if document is None else len(document.roots),
        jwt_keys=0 if document is None else len(document.jwt_keys),
        taken_at=one.taken_at or 0.0,
        looked_at=one.looked_at or 0.0,
        next_look_s=one.next_look_s,
        error=one.error,
    )


def _unheard(federated: Iterable[FederatedView]) -> list[str]:
    """Of whom there is no bundle, or no newer one."""
    found: list[str] = []
    for one in federated:
        if one.error:
            held = "its last good one stays in force" if one.document is not None else "none is known"
            found.append(f"no new bundle of {one.domain} ({held}): {one.error}")
        elif one.document is not None and not one.document.roots:
            found.append(f"the bundle of {one.domain} has no roots: nobody of that trust domain is accepted")
    return found


def _certificate(one: CertificateRecord, now: WallTime) -> Certificate:
    return Certificate(
        serial=f"{one.serial:x}",
        spiffe_id=str(one.spiffe_id),
        key_sha256=one.key_sha256.hex(),
        authority=one.authority,
        issued_at=one.issued_at,
        not_after=one.not_after,
        caller=one.caller,
        state=_state(one, now),
        revoked_at=one.revoked_at or 0.0,
        reason=one.reason,
    )


def _state(one: CertificateRecord, now: WallTime) -> str:
    if one.revoked_at is not None:
        return "revoked"
    if one.not_after <= now:
        return "ended"
    return "in use" if one.superseded_at is None else "superseded"


def _waiting(view: RotationView) -> Iterable[str]:
    if view.paused:
        return ["it was taken back; `hbone ca rotate-root` goes on"]
    return view.waiting


def _warnings(generations: Generations, nodes: Iterable[NodeView], now: WallTime) -> list[str]:
    found: list[str] = []
    active = generations.active
    for what, certificate, fix in (
        ("the root", active.root, "hbone ca rotate-root"),
        ("the intermediate", active.authority.signer, "hbone ca rotate-intermediate"),
    ):
        begin, end = wall_time(certificate.not_valid_before_utc), wall_time(certificate.not_valid_after_utc)
        if end <= now:
            found.append(f"{what} has ended and nothing can be signed; run `hbone ca rotate-root --recover`")
        elif end - now < _SOON * (end - begin) and generations.phase is Phase.NONE:
            found.append(f"{what} ends at {certificate.not_valid_after_utc:%FT%TZ}; run `{fix}`")
    if not may_sign(active.authority.signer):
        found.append(
            "the signing certificate may not sign revocation lists: nodes of hbone are told what is revoked, "
            "others are not; have it issued with cRLSign"
        )
    found += [f"{one} refused the newest trust bundle: {one.refused}" for one in nodes if one.refused]
    return found


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "without a name"
