"""From a host name that a program used to the service or workload it means.

Short names are expanded as Kubernetes' resolvers do, from the client's namespace: `cart`, `cart.shop`,
`cart.shop.svc` all lead to `cart.shop.svc.cluster.local`. Wildcard services (`*.example.com`) answer for what no
exact name does. Workloads can be called by their own host name, by `name.namespace`, and by name at home.
"""

from collections.abc import Iterator

from hbone.discovery.directory import Directory, Found
from hbone.discovery.model import Workload


def expansions(host: str, namespace: str, domain: str) -> Iterator[str]:
    """The full names that a short name may stand for, likeliest first, without the name itself."""
    labels = host.count(".") + 1
    if labels == 1:
        yield f"{host}.{namespace}.svc.{domain}"
    elif labels == 2:
        yield f"{host}.svc.{domain}"
        yield f"{host}.{namespace}.svc.{domain}"
    elif labels == 3:
        if host.endswith(".svc"):
            yield f"{host}.{domain}"
        yield f"{host}.svc.{domain}"
    elif labels == 4 and host.endswith(".svc"):
        yield f"{host}.{domain}"


def wildcards(host: str) -> Iterator[str]:
    """The wildcard names that cover a host, the closest first: `*.b.c`, `*.c` for `a.b.c`."""
    rest = host
    while "." in rest:
        rest = rest.partition(".")[2]
        yield f"*.{rest}"


def named(directory: Directory, host: str, namespace: str, domain: str) -> Found:
    """The service or else the workload that a client in `namespace` means by `host` (lower case)."""
    candidates = (host, *expansions(host, namespace, domain))
    for candidate in candidates:
        for name in (candidate, *wildcards(candidate)):
            service = directory.service_named(name, namespace)
            if service is not None:
                return Found(service=service)
    return Found(workload=_workload(directory, host, namespace))


def _workload(directory: Directory, host: str, namespace: str) -> Workload | None:
    hosts = directory.workloads_with_host(host)
    if hosts:
        return next((workload for workload in hosts if workload.namespace == namespace), hosts[0])
    name, dot, other = host.rpartition(".")
    called = directory.workloads_called(other, name) if dot else directory.workloads_called(namespace, host)
    return called[0] if called else None
