"""How settings and commands name workloads and identities: NAMESPACE/NAME, NAMESPACE/ACCOUNT."""

import re
from typing import Final, Self

from hbone.errors import UsageError
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.values import dataclass

_PART = re.compile(r"[a-zA-Z0-9._-]{1,253}")
_DOTS: Final = frozenset({".", ".."})


class InvalidReference(UsageError):
    """Text that does not name a workload or an identity."""


@dataclass(frozen=True, slots=True, order=True)
class AccountRef:
    """A service account: what an identity is made of."""

    namespace: str
    service_account: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """`shop/cart`; raises InvalidReference."""
        namespace, account = _parts(text, (2,), "NAMESPACE/ACCOUNT, for example shop/cart")
        return cls(namespace, account)

    def spiffe_id(self, trust_domain: TrustDomain) -> SpiffeId:
        return SpiffeId.for_workload(trust_domain, self.namespace, self.service_account)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service_account}"


ANY: Final = "*"


@dataclass(frozen=True, slots=True, order=True)
class AccountPattern:
    """Service accounts: one, all of a namespace, or all there are. A part that is "*" stands for any."""

    namespace: str
    service_account: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """`shop/cart`, `shop/*`, or `*`; raises InvalidReference."""
        form = "NAMESPACE/ACCOUNT, NAMESPACE/*, or *, for example shop/*"
        parts = (ANY, ANY) if text == ANY else tuple(text.split("/"))
        if parts == (ANY, ANY):
            return cls(ANY, ANY)
        namespace, account = _parts(text.removesuffix(f"/{ANY}") + "/x" if parts[-1] == ANY else text, (2,), form)
        return cls(namespace, ANY if parts[-1] == ANY else account)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service_account}"


@dataclass(frozen=True, slots=True, order=True)
class WorkloadRef:
    """A workload by its manifest's namespace and name."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """`shop/cart-0`; raises InvalidReference."""
        namespace, name = _parts(text, (2,), "NAMESPACE/NAME, for example shop/cart-0")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class WorkloadInfo:
    """Whom a dedicated node works for (`PROXY_WORKLOAD_INFO`). `name` is None when any of the account's will do."""

    namespace: str
    name: str | None
    service_account: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """`shop/cart-0/cart`, or `shop/cart` for namespace and account alone; raises InvalidReference."""
        form = "NAMESPACE/NAME/ACCOUNT or NAMESPACE/ACCOUNT, for example shop/cart-0/cart"
        parts = _parts(text, (2, 3), form)
        return cls(parts[0], parts[1] if len(parts) == 3 else None, parts[-1])

    @property
    def account(self) -> AccountRef:
        return AccountRef(self.namespace, self.service_account)

    def __str__(self) -> str:
        return "/".join(part for part in (self.namespace, self.name, self.service_account) if part is not None)


def _parts(text: str, counts: tuple[int, ...], form: str) -> tuple[str, ...]:
    parts = tuple(text.split("/"))
    if len(parts) not in counts:
        count = "1 part" if len(parts) == 1 else f"{len(parts)} parts"
        raise InvalidReference(f"{text[:200]!r} has {count}", fix=f"write {form}", text=text)
    for part in parts:
        if not _PART.fullmatch(part) or part in _DOTS:
            shown = "an empty part" if not part else f"the part {part[:80]!r}"
            raise InvalidReference(
                f"{text[:200]!r} has {shown}", fix=f"use letters, digits, '.', '-', '_' and write {form}", text=text
            )
    return parts
