"""A workload as baggage: what one proxy tells the other about its side, for logs and metrics only."""

from functools import lru_cache

from hbone.discovery.model import Workload
from hbone.protocol.baggage import Baggage


@lru_cache(maxsize=4096)
def baggage_of(workload: Workload) -> Baggage:
    """Never used to judge: it is what the peer says of itself."""
    return Baggage(
        cluster=workload.cluster_id,
        namespace=workload.namespace,
        workload_type=workload.workload_type.value,
        workload=workload.workload_name,
        service=workload.canonical_name,
        version=workload.canonical_revision,
        region=workload.locality.region,
        zone=workload.locality.zone,
    )
