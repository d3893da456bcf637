"""`handshakes HOST PORT AUTHORITY CHAIN KEY ROOT SECONDS`: new tunnels, one after the other, each for one CONNECT.

Every tunnel is TCP, a full mutual TLS 1.3 handshake with ALPN h2, an HTTP/2 preface, a CONNECT for AUTHORITY and its
200; only that proves that the far side judged our certificate (in TLS 1.3 the client is done before the server is).
Prints {"tunnels", "seconds", "p50_s", "p99_s", "failed"}.
"""

import json
import socket
import ssl
import statistics
import sys
import time

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, HEADERS = 0x4, 0x1
END_HEADERS = 0x4
STREAM = 1
FRAME_HEADER_BYTES = 9
STEP_LIMIT_S = 5.0
STATUS_200 = 0x88  # HPACK: indexed field 8 of the static table (RFC 7541 appendix A), which all encoders use for it


def client_context(chain: str, key: str, root: str) -> ssl.SSLContext:
    """A client of our trust domain; the peer's chain is checked, its SPIFFE ID is not: that is not what is measured."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(root)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    return context


def opening(authority: str) -> bytes:
    """All that a client sends: preface, empty SETTINGS, and the CONNECT."""
    block = hpack.Encoder().encode([(":method", "CONNECT"), (":authority", authority)])
    return PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END_HEADERS, STREAM, block)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113 §4.1."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def open_tunnel(address: tuple[str, int], context: ssl.SSLContext, first: bytes) -> bool:
    """One tunnel, opened and closed; whether the CONNECT was answered 200."""
    try:
        with socket.create_connection(address, STEP_LIMIT_S) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(plain) as tls:
                tls.sendall(first)
                return _answered_200(tls)
    except OSError:
        return False


def _answered_200(tls: ssl.SSLSocket) -> bool:
    received = b""
    while data := tls.recv(16_384):
        received += data
        while len(received) >= FRAME_HEADER_BYTES:
            end = FRAME_HEADER_BYTES + int.from_bytes(received[:3], "big")
            if len(received) < end:
                break
            if received[3] == HEADERS:
                return received[FRAME_HEADER_BYTES] == STATUS_200
            received = received[end:]
    return False


def main(host: str, port: int, first: bytes, context: ssl.SSLContext, seconds: float) -> dict[str, float]:
    """Tunnels until the time is over."""
    times_s: list[float] = []
    failed = 0
    began = now = time.perf_counter()
    while now < began + seconds:
        good = open_tunnel((host, port), context, first)
        ended = time.perf_counter()
        if good:
            times_s.append(ended - now)
        else:
            failed += 1
        now = ended
    cuts = statistics.quantiles(times_s, n=100) if len(times_s) > 1 else [0.0] * 99
    return {
        "tunnels": len(times_s),
        "seconds": now - began,
        "p50_s": cuts[49],
        "p99_s": cuts[98],
        "failed": failed,
    }


if __name__ == "__main__":
    _, host_, port_, authority_, chain_, key_, root_, seconds_ = sys.argv
    context_ = client_context(chain_, key_, root_)
    done = main(host_, int(port_), opening(authority_), context_, float(seconds_))
    sys.stdout.write(json.dumps(done) + "\n")
