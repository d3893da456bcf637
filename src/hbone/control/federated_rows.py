"""Bundles of other trust domains on disk: the last good one of each partner."""

import sqlite3
from collections.abc import Iterable, Sequence

from hbone.identity.spiffe import TrustDomain
from hbone.times import WallTime
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRow:
    """`file_sha256`: of the file that was taken last for this domain, empty for none."""

    domain: TrustDomain
    document: str
    taken_at: WallTime
    file_sha256: str


def stored(database: sqlite3.Connection) -> list[BundleRow]:
    select = "SELECT trust_domain, document, taken_at, file_sha256 FROM federated_bundles ORDER BY trust_domain"
    return [
        BundleRow(domain=TrustDomain(domain), document=document, taken_at=WallTime(taken_at), file_sha256=digest)
        for domain, document, taken_at, digest in database.execute(select)
    ]


def put(database: sqlite3.Connection, row: BundleRow) -> None:
    database.execute(
        "INSERT OR REPLACE INTO federated_bundles (trust_domain, document, taken_at, file_sha256) VALUES (?, ?, ?, ?)",
        (row.domain, row.document, row.taken_at, row.file_sha256),
    )


def replace(database: sqlite3.Connection, names: Sequence[str], rows: Iterable[BundleRow]) -> None:
    """Put `rows`, and forget all domains but `names`."""
    kept = ",".join("?" * len(names))
    database.execute(f"DELETE FROM federated_bundles WHERE trust_domain NOT IN ({kept})", names)  # noqa: S608 - "?"s
    for row in rows:
        put(database, row)
