"""Names that programs use, and what they mean."""

import pytest

from hbone.discovery.model import Visibility
from hbone.discovery.names import expansions, named, wildcards
from tests.unit.discovery.builders import service, store, workload

DOMAIN = "cluster.local"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("cart", ["cart.shop.svc.cluster.local"]),
        ("cart.web", ["cart.web.svc.cluster.local", "cart.web.shop.svc.cluster.local"]),
        ("cart.web.svc", ["cart.web.svc.cluster.local", "cart.web.svc.svc.cluster.local"]),
        ("a.b.c", ["a.b.c.svc.cluster.local"]),
        ("a.b.c.svc", ["a.b.c.svc.cluster.local"]),
        ("a.b.c.d", []),
        ("cart.web.svc.cluster.local", []),
    ],
)
def test_short_names_are_expanded_as_in_kubernetes(host: str, expected: list[str]) -> None:
    assert list(expansions(host, "shop", DOMAIN)) == expected


def test_wildcards_cover_a_name_the_closest_first() -> None:
    assert list(wildcards("a.b.c")) == ["*.b.c", "*.c"]
    assert list(wildcards("a")) == []


@pytest.mark.parametrize(
    ("host", "namespace", "expected"),
    [
        ("cart", "shop", "cart"),
        ("cart", "web", None),
        ("cart.shop", "web", "cart"),
        ("cart.shop.svc", "web", "cart"),
        ("cart.shop.svc.cluster.local", "web", "cart"),
        ("api.example.com", "web", "wild"),
        ("www.api.example.com", "web", "closer"),
        ("example.com", "web", None),
        ("secret.example.org", "web", None),
        ("secret.example.org", "shop", "secret"),
        ("nothing", "shop", None),
    ],
)
def test_a_service_is_found_by_the_names_its_clients_use(host: str, namespace: str, expected: str | None) -> None:
    mesh = store(
        service("cart"),
        service("wild", hostname="*.example.com"),
        service("closer", hostname="*.api.example.com"),
        service("secret", hostname="secret.example.org", visibility=Visibility.NAMESPACE),
    )
    found = named(mesh, host, namespace, DOMAIN).service
    assert (found and found.name) == expected


@pytest.mark.parametrize(
    ("host", "namespace", "expected"),
    [
        ("vm-1.shop", "web", "vm-1"),
        ("vm-1", "shop", "vm-1"),
        ("vm-1", "web", None),
        ("db.example", "web", "db"),
        ("twice.example", "web", "second"),
        ("twice.example", "other", "first"),
    ],
)
def test_a_workload_is_found_by_its_host_name_and_by_name_and_namespace(
    host: str, namespace: str, expected: str | None
) -> None:
    mesh = store(
        workload("vm-1", "10.0.0.2"),
        workload("db", hostname="db.example"),
        workload("first", hostname="twice.example"),
        workload("second", hostname="twice.example", namespace="web"),
    )
    found = named(mesh, host, namespace, DOMAIN).workload
    assert (found and found.name) == expected


def test_a_service_is_meant_where_a_workload_has_the_same_name() -> None:
    mesh = store(service("cart"), workload("cart", "10.0.0.2"))
    assert named(mesh, "cart", "shop", DOMAIN).service is not None
