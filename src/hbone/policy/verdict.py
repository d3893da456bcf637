"""What comes out of judging a connection: a verdict that knows what decided it."""

from enum import Enum
from typing import Final

from hbone.errors import PolicyDenied
from hbone.values import dataclass


class Verdict(Enum):
    ALLOW = "allow"
    DENY = "deny"


class Reason(Enum):
    """Why a verdict is what it is; the words are ztunnel's where it has the case."""

    NO_ALLOW_POLICIES = "no allow policies, allow"
    ALLOWED = "explicitly allowed by"
    DENIED = "explicitly denied by"
    NOT_ALLOWED = "allow policies exist, but none allowed"
    POLICY_MISSING = "a policy that the workload names is not known here"


@dataclass(frozen=True, slots=True)
class Hit:
    """A rule that fitted: the policy's key and the rule's number."""

    policy: str
    rule: int
    place: str | None = None

    def __str__(self) -> str:
        return f"{self.policy} rule {self.rule}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What policies that only watch have to say. `audit` and `dry_run` fitted; `would` is the verdict if dry-run
    policies were enforced, and `would_by` the policy that would decide it."""

    audit: tuple[Hit, ...] = ()
    dry_run: tuple[Hit, ...] = ()
    would: Verdict
    would_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`policy` ("namespace/name"), `rule` and `place` are what decided, None where no single one did."""

    verdict: Verdict
    reason: Reason
    policy: str | None = None
    rule: int | None = None
    place: str | None = None
    observed: Observed | None = None

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOW

    def __str__(self) -> str:
        """One line for a log: "explicitly denied by: shop/deny-web"."""
        return f"{self.reason.value}: {self.policy}" if self.policy is not None else self.reason.value

    def denial(self) -> PolicyDenied:
        """The error for a connection that was kept out, or is cut."""
        fix = "ask `hbone policy explain` why, and what would allow it"
        return PolicyDenied("denied by policy", why=str(self), fix=fix, policy=self.policy, rule=self.rule)


NO_ALLOW_POLICIES: Final = Decision(verdict=Verdict.ALLOW, reason=Reason.NO_ALLOW_POLICIES)
NOT_ALLOWED: Final = Decision(verdict=Verdict.DENY, reason=Reason.NOT_ALLOWED)
