"""What a machine was granted when it registered, as it keeps it for a start while the control plane is away. Decides.

It is good for the same wish alone: a machine that is to expose another port, or be known by another name, has to ask.
"""

from typing import Any, cast

import orjson

from hbone.addr import parse_ip
from hbone.control.lease import Granted, Wish
from hbone.errors import HboneError
from hbone.identity.spiffe import SpiffeId


def document(wish: Wish, granted: Granted) -> bytes:
    """As it is kept."""
    return orjson.dumps(
        {
            "wish": _wish(wish),
            "uid": granted.uid,
            "name": granted.name,
            "addresses": [str(ip) for ip in granted.addresses],
            "spiffe_id": str(granted.spiffe_id),
            "hostnames": list(granted.hostnames),
        },
        option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
    )


def kept_for(wish: Wish, content: bytes) -> Granted | None:
    """What was granted for this wish; None if it was for another one, or cannot be read."""
    try:
        found = cast("dict[str, Any]", orjson.loads(content))
        if found["wish"] != _wish(wish):
            return None
        return Granted(
            uid=str(found["uid"]),
            name=str(found["name"]),
            addresses=tuple(parse_ip(text) for text in found["addresses"]),
            spiffe_id=SpiffeId.parse(found["spiffe_id"]),
            hostnames=tuple(map(str, found["hostnames"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError, HboneError):
        return None


def _wish(wish: Wish) -> dict[str, Any]:
    return {
        "namespace": wish.namespace,
        "service_account": wish.service_account,
        "name": wish.name,
        "addresses": [str(ip) for ip in wish.addresses],
        "hbone_port": wish.hbone_port,
        "services": [
            {"hostname": one.hostname, "ports": sorted(map(list, one.ports.items()))} for one in wish.services
        ],
        "node": wish.node,
        "group": wish.group,
    }
