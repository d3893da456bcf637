"""What a machine was granted is good for the same wish, and for no other."""

from dataclasses import replace
from ipaddress import ip_address

import orjson
import pytest

from hbone.control.kept_grant import document, kept_for
from hbone.control.lease import Granted, ServiceWish, Wish
from hbone.identity.spiffe import SpiffeId

PORTS = {80: 8080, 90: 90}
WISH = Wish(namespace="shop", service_account="cart", hbone_port=15008, services=(ServiceWish(ports=PORTS),))
GRANTED = Granted(
    uid="Kubernetes//WorkloadEntry/shop/cart",
    name="cart",
    addresses=(ip_address("127.88.0.1"), ip_address("fd00::1")),
    spiffe_id=SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart"),
    hostnames=("cart.shop.mesh.internal",),
)


def test_what_is_kept_is_read_again() -> None:
    assert kept_for(WISH, document(WISH, GRANTED)) == GRANTED


@pytest.mark.parametrize(
    "other",
    [
        replace(WISH, service_account="web"),
        replace(WISH, hbone_port=0),
        replace(WISH, services=()),
        replace(WISH, services=(ServiceWish(ports={80: 8081, 90: 90}),)),
        replace(WISH, services=(ServiceWish(hostname="cart", ports=PORTS),)),
        replace(WISH, addresses=(ip_address("127.88.0.2"),)),
        replace(WISH, group="carts"),
    ],
)
def test_another_wish_has_to_ask(other: Wish) -> None:
    assert kept_for(other, document(WISH, GRANTED)) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"7", b"\xff", b'{"wish": null}', b'{"wish": {}, "uid": 1}'])
def test_what_cannot_be_read_is_as_good_as_nothing(content: bytes) -> None:
    assert kept_for(WISH, content) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("spiffe_id", "x"), ("spiffe_id", None), ("addresses", 7), ("addresses", ["x"]), ("hostnames", 7)],
)
def test_what_is_damaged_is_as_good_as_nothing(name: str, value: object) -> None:
    content = {**orjson.loads(document(WISH, GRANTED)), name: value}
    assert kept_for(WISH, orjson.dumps(content)) is None
