"""What one proxy tells the other about its workload."""

from hbone.discovery.model import Locality
from hbone.proxy.labels import baggage_of
from tests.unit.discovery.builders import workload


def test_a_workload_becomes_baggage_in_istios_order() -> None:
    described = workload(
        "cart-0",
        workload_name="cart",
        canonical_name="cart",
        canonical_revision="v3",
        cluster_id="c1",
        locality=Locality(region="eu-1", zone="eu-1b"),
    )
    assert baggage_of(described).header() == (
        b"k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart,service.version=v3,"
        b"cloud.region=eu-1,cloud.availability_zone=eu-1b"
    )
