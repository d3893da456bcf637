"""No private key and no token is anywhere but where it belongs: not in a log, an argument, a view, or the database."""

import base64
import json
import re
import socket
from pathlib import Path

import pytest

from tests.cli.programs import exchange, expose, forward, up
from tests.support.commands import Running, Sandbox, command_line
from tests.support.targets import echo

VIEWS = ("/", "/config_dump", "/certificates", "/process", "/workloads", "/connections", "/tunnels", "/policies")
_PEM_BODY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\n(.*?)-----END", re.DOTALL)


def view(sandbox: Sandbox, path: str) -> str:
    """What the operator's window answers."""
    with socket.socket(socket.AF_UNIX) as window:
        window.settimeout(5)
        window.connect(str(sandbox.directory / "admin.sock"))
        window.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while more := window.recv(65536):
            answer += more
    assert b"200 OK" in answer[:50], answer[:200]
    return answer.decode()


def keys_below(directory: Path) -> list[str]:
    """A line of each private key in some file there, as it would show up anywhere in PEM or base64."""
    texts = [path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file()]
    return [body.split("\n")[1] for text in texts for body in _PEM_BODY.findall(text)]


def secret_of(token: str) -> str:
    """The part of a join token that proves something."""
    encoded = token.removeprefix("hbone1.")
    return str(json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))["secret"])


@pytest.mark.timeout(120)
def test_no_key_and_no_token_is_in_any_log_argument_view_or_database(sandbox: Sandbox) -> None:
    loud = {"RUST_LOG": "trace", "HBONE_WORKERS": "2", "HBONE_ADMIN": f"unix:{sandbox.directory}/admin.sock"}
    mesh = sandbox.start("up", "--control-listen", "127.0.0.1:0", "--advertise", "localhost:15012", env=loud)
    mesh.wait_for("Ctrl-C ends it")
    address = mesh.wait_for("control plane listens", "address=").rpartition('address="')[2].rstrip('"')
    with echo() as target:
        exposed = expose(sandbox, "shop/cart", 80, target.address)
        forwarded, entry = forward(sandbox, "web/client", "cart.shop:80")
        assert exchange(entry) == b"ping"
        token = sandbox.run("token", "create", "--as", "vm/db", "--address", address).expect(0).out.strip()
        member_dir = sandbox.directory / "member"
        joining = {"HBONE_JOIN_TOKEN": token, "RUST_LOG": "trace", "HBONE_STATE_DIR": str(member_dir)}
        member = sandbox.start("join", "--expose", str(target.address), env=joining)
        member.wait_for("kept in")
        issued = sandbox.run("cert", "issue", "--as", "shop/web", "--out", "issued").expect(0)
        running: list[Running] = [mesh, exposed, forwarded, member]
        listed = [sandbox.run(*words).expect(0) for words in (("token", "list"), ("cert", "list"), ("ca", "status"))]
        audit = sandbox.run("ca", "audit").expect(0)
        arguments = [" ".join(command_line(pid)) for one in running for pid in one.family()]
        shown = [view(sandbox, path) for path in VIEWS]

    keys = [key for place in (sandbox.state, member_dir, sandbox.work) for key in keys_below(place)]
    assert len(keys) >= 4, "root, intermediate, JWT key, the member's, the one that was issued"
    texts = {
        "a log": "".join(one.text for one in running),
        "an argument": "\n".join(arguments),
        "a view": "\n".join(shown),
        "what a command prints": "".join(one.text for one in (issued, *listed, audit)),
        "the audit log": (sandbox.state / "audit.jsonl").read_text(),
    }
    held = {path.name: path.read_bytes() for path in sandbox.state.glob("control.db*")}
    for secret in (*keys, secret_of(token), token.removeprefix("hbone1.")):
        assert secret
        assert {place for place, text in texts.items() if secret in text} == set()
        raw = secret.encode()
        assert {name for name, content in held.items() if raw in content} == set()


def test_a_node_takes_a_token_from_a_file_and_never_shows_it(sandbox: Sandbox) -> None:
    up(sandbox)
    token = "very-secret-" * 20
    shown = sandbox.run("node", "--print-config", env={"AUTH_TOKEN": token})
    assert token not in shown.expect(0).text
