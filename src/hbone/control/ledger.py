"""The CA's ledger: every certificate is recorded before it is handed out, nothing that was revoked is signed."""

from cryptography import x509

from hbone.ca.authority import Issued
from hbone.control import records
from hbone.control.authorities import Authorities
from hbone.control.issue import Asked
from hbone.control.records import CertificateRecord
from hbone.control.revoker import Revoker
from hbone.control.store import StateStore
from hbone.identity.svid import wall_time
from hbone.times import Clock


class StoreLedger:
    """`hbone.control.issue.Ledger` on the control plane's state."""

    def __init__(self, store: StateStore, authorities: Authorities, revoker: Revoker, clock: Clock) -> None:
        self._store = store
        self._authorities = authorities
        self._revoker = revoker
        self._clock = clock

    def refusal(self, asked: Asked) -> str:
        return self._revoker.refusal(asked)

    async def record(self, issued: Issued, asked: Asked) -> None:
        leaf: x509.Certificate = issued.certificate
        record = CertificateRecord(
            serial=leaf.serial_number,
            # no wait lies between signing and this line: the one that is active has signed
            authority=self._authorities.now.active.number,
            spiffe_id=asked.spiffe_id,
            key_sha256=asked.key_sha256,
            issued_at=self._clock.wall(),
            not_after=wall_time(leaf.not_valid_after_utc),
            caller=asked.caller,
            holder=asked.holder,
        )
        await self._store.write(lambda database: records.insert(database, record))
