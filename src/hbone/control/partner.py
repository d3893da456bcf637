"""One other trust domain, as an operator named it, and what is known of it."""

import asyncio
from dataclasses import field
from hashlib import sha256
from pathlib import Path
from typing import Final

from hbone.control.bundle_fetch import Endpoint
from hbone.control.federated_rows import BundleRow
from hbone.control.trust_resource import DomainTrust
from hbone.errors import InvalidConfiguration, Problem
from hbone.identity.bundle import BundleDocument, InvalidBundle, TrustBundle
from hbone.identity.federation import BundleRefused, Owners, check_bundle
from hbone.identity.revocation import Revocations
from hbone.identity.spiffe import TrustDomain
from hbone.times import Instant, WallTime
from hbone.values import dataclass

_MAX_FILE_BYTES: Final = 1 << 20
_PEM: Final = b"-----BEGIN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """Another trust domain, as the operator named it. `file`: its bundle; with an `endpoint` the first one only.
    `aliases`: further names of it."""

    domain: TrustDomain
    aliases: frozenset[TrustDomain] = frozenset()
    endpoint: Endpoint | None = None
    file: Path | None = None

    def __str__(self) -> str:
        return str(self.endpoint or self.file)


@dataclass(slots=True, kw_only=True, eq=False)
class Known:
    """What is known of one partner. `file_sha256`: of the file that was taken last, empty for none. `tasks`: what
    keeps it fresh."""

    partner: Partner
    document: BundleDocument | None = None
    taken_at: WallTime | None = None
    file_sha256: str = ""
    looked_at: WallTime | None = None
    next_at: Instant | None = None
    failures: int = 0
    error: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])

    @property
    def domain(self) -> TrustDomain:
        return self.partner.domain

    @property
    def trust(self) -> DomainTrust | None:
        document = self.document
        if document is None:
            return None
        return DomainTrust(
            domain=self.domain,
            roots=document.roots,
            revocations=Revocations(),
            sequence=document.sequence or 0,
            aliases=self.partner.aliases,
            jwt_keys=document.jwt_keys,
            document_sequence=document.sequence,
        )

    @property
    def row(self) -> BundleRow | None:
        """As it is kept on disk."""
        if self.document is None or self.taken_at is None:
            return None
        return BundleRow(
            domain=self.domain,
            document=self.document.to_json(),
            taken_at=self.taken_at,
            file_sha256=self.file_sha256,
        )

    @classmethod
    def of_row(cls, row: BundleRow) -> "Known":
        """What was kept of a domain, whoever it is now."""
        return cls(
            partner=Partner(domain=row.domain),
            document=BundleDocument.from_json(row.document),
            taken_at=row.taken_at,
            file_sha256=row.file_sha256,
        )

    def inherit(self, former: "Known | None") -> None:
        """The bundle that was in force before the operator changed what is said of this domain."""
        if former is None:
            return
        self.document, self.taken_at = former.document, former.taken_at
        self.file_sha256, self.looked_at = former.file_sha256, former.looked_at


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """What a bundle's file says, and its SHA-256."""

    document: BundleDocument
    sha256: str


def load_bundle(path: Path, domain: TrustDomain, owners: Owners) -> BundleFile:
    """Raises InvalidConfiguration. A file is the operator's word: its number is held against no former one."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        found = _read_bundle(content, domain)
        check_bundle(found, domain, None, owners)
    except OSError as error:
        what = (error.strerror or str(error)).lower()
        fix = f"write the bundle of {domain} there"
        raise InvalidConfiguration([Problem(what=what, fix=fix, file=str(path))]) from error
    except (InvalidBundle, BundleRefused) as error:
        raise unfit(error, path) from error
    return BundleFile(document=found, sha256=sha256(content).hexdigest())


def unfit(error: InvalidBundle | BundleRefused, path: Path) -> InvalidConfiguration:
    """The same about the file that it came from."""
    what = f"{error.what}: {error.why}" if error.why else error.what
    return InvalidConfiguration([Problem(what=what, fix=error.fix, file=str(path))])


def _read_bundle(content: bytes, domain: TrustDomain) -> BundleDocument:
    """A SPIFFE bundle document, or PEM certificates; raises InvalidBundle."""
    if len(content) > _MAX_FILE_BYTES:
        raise InvalidBundle(f"the bundle of {domain} has more than {_MAX_FILE_BYTES} bytes", fix="check the file")
    if not content.lstrip().startswith(_PEM):
        return BundleDocument.from_json(content)
    return BundleDocument(roots=TrustBundle.from_pem(domain, content).roots[domain])
