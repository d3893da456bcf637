"""What an operator is told of a node's certificates: metrics, and whether the node may be sent work."""

from collections.abc import Iterable

from hbone.control.renew import IdentityKeeper
from hbone.control.renewals import IdentityView
from hbone.telemetry.metrics import Metrics
from hbone.telemetry.names import SVID_EXPIRY, SVID_EXPIRY_SECONDS, SVID_RENEWALS
from hbone.times import Clock

CERTIFICATES = "a certificate from the CA"
"""What a node waits for whose certificates are about to end."""


def describe_certificates(metrics: Metrics, keeper: IdentityKeeper, clock: Clock) -> None:
    """Fill `hbone_svid_*`, read when they are asked for."""

    def ends(since: float) -> list[tuple[tuple[str, ...], float]]:
        views = [(view.spiffe_id, view.not_after) for view in keeper.views()]
        return [((str(spiffe_id),), not_after - since) for spiffe_id, not_after in views if not_after is not None]

    metrics.gauge(SVID_EXPIRY).read_from(lambda: ends(0.0))
    metrics.gauge(SVID_EXPIRY_SECONDS).read_from(lambda: ends(clock.wall()))
    metrics.counter(SVID_RENEWALS).read_from(lambda: [((result,), n) for result, n in keeper.asked.items()])


def about_to_end(views: Iterable[IdentityView]) -> bool:
    """Whether no certificate of a node will last: each is near its end, and its renewal fails.

    One identity of many that is refused its renewal must not take the others' traffic away, so it is all or nothing;
    which one it is, metrics and log lines tell.
    """
    held = [view for view in views if view.spent is not None]
    return bool(held) and all(view.in_danger for view in held)
