"""What the connections end at: real servers where there are, our own where none fits."""

import functools
import sys
from collections.abc import Mapping
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path

from hbone.addr import SocketAddress
from hbone.bench import procfs
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes, Started
from hbone.bench.tools import IPERF3, NGINX

READY_LIMIT_S = 10.0
BODY_BYTES = 1024

NGINX_CONFIG = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 40000; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  tcp_nodelay on;
  server {{
    listen {address} backlog=4096;
    location / {{ default_type text/plain; return 200 "{body}"; }}
  }}
}}
"""


class TargetKind(Enum):
    """iperf3's server, nginx with a small constant body, and an echo that holds many connections."""

    IPERF = "iperf"
    HTTP = "http"
    HOLD = "hold"


class Targets:
    """Target servers on one address, started once each when first asked for."""

    def __init__(self, processes: Processes, ports: Ports, host: IPv4Address) -> None:
        self._processes = processes
        self._ports = ports
        self._host = host
        self._started: dict[TargetKind, Started] = {}
        self.addresses: dict[TargetKind, SocketAddress] = {}

    def start(self, kinds: frozenset[TargetKind]) -> Mapping[TargetKind, SocketAddress]:
        """Where each kind now listens; raises NotReady."""
        for kind in sorted(kinds - self._started.keys(), key=lambda kind: kind.value):
            address = self._ports.free(self._host)
            server = self._processes.serve(kind.value, _command(kind, address, self._processes.directory))
            self._started[kind] = server
            self.addresses[kind] = address
            server.wait_until(functools.partial(procfs.listens, str(address.ip), address.port), READY_LIMIT_S)
        return {kind: self.addresses[kind] for kind in kinds}

    def stop(self) -> None:
        """End them all."""
        self._processes.stop(list(self._started.values()))
        self._started.clear()


def _command(kind: TargetKind, address: SocketAddress, directory: Path) -> list[str]:
    match kind:
        case TargetKind.IPERF:
            return IPERF3.command("-s", "-B", address.ip, "-p", address.port)
        case TargetKind.HTTP:
            config = directory / f"nginx-{address.port}.conf"
            config.write_text(NGINX_CONFIG.format(directory=directory, address=address, body="x" * BODY_BYTES))
            return NGINX.command("-p", directory, "-c", config, "-e", "stderr")
        case TargetKind.HOLD:
            return [sys.executable, "-m", "hbone.bench.load.hold", str(address.ip), str(address.port)]
