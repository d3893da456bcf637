"""What an operator gets for bad input: one clear error with its place and its remedy, exit code 2, nothing started."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from tests.support.cafiles import ca_files
from tests.support.commands import Done, Sandbox

MESH = ("up", "mesh", "--inbound", "127.0.0.1:0", "--socks", "off")
NODE = ("node", "--config", "node.yaml")

WORKLOAD = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata:
  name: cart
  namespace: shop
  labels: {app: cart}
spec:
  address: 127.0.0.9
  serviceAccount: cart
"""
SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: cart
  namespace: shop
spec:
  hosts: [cart.shop]
  ports:
  - {number: 80, name: http, protocol: TCP}
  resolution: STATIC
  endpoints:
  - {address: 127.0.0.8}
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Files to write, what to run, and what the one line of the error must have."""

    files: Mapping[str, str | bytes] = field(default_factory=dict[str, str | bytes])
    run: tuple[str, ...] = MESH
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    place: str
    says: str
    instead: str


def manifest(text: str | bytes, *, place: str, says: str, instead: str) -> Row:
    return Row(files={"mesh/shop.yaml": text}, place=f"mesh/shop.yaml{place}", says=says, instead=instead)


def settings(text: str | bytes, *, place: str, says: str, instead: str) -> Row:
    return Row(files={"node.yaml": text}, run=NODE, place=f"node.yaml{place}", says=says, instead=instead)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)

MISTAKES: dict[str, Row] = {
    "a manifest with a value of the wrong type": manifest(
        WORKLOAD.replace("127.0.0.9", "[1, 2]"), place=":8: spec.address", says="is a list", instead="write text"
    ),
    "a manifest with a mapping of the wrong type": manifest(
        WORKLOAD.replace("{app: cart}", "7"), place=":6: metadata.labels", says="7 is a number", instead="a mapping"
    ),
    "an unknown kind": manifest(
        WORKLOAD.replace("WorkloadEntry", "WorkloadEntri"),
        place=":2: kind",
        says="unknown kind 'WorkloadEntri'",
        instead="did you mean 'WorkloadEntry'?",
    ),
    "an unknown field": manifest(
        WORKLOAD.replace("serviceAccount", "serviceAcount"),
        place=":9: spec.serviceAcount",
        says="serviceAcount",
        instead="serviceAccount",
    ),
    "a duplicate workload address": manifest(
        f"{WORKLOAD}---\n{WORKLOAD.replace('name: cart', 'name: other')}",
        place=":18: spec.address",
        says="the address 127.0.0.9 belongs to WorkloadEntry shop/cart already, at mesh/shop.yaml:1",
        instead="give each workload its own address",
    ),
    "the same workload in two files": Row(
        files={"mesh/a.yaml": WORKLOAD, "mesh/b.yaml": WORKLOAD},
        place="mesh/b.yaml:4: metadata.name",
        says="is there twice, first at mesh/a.yaml:1",
        instead="give it another name, or remove one",
    ),
    "a service without endpoints": manifest(
        SERVICE.partition("  endpoints")[0],
        place=":6: spec.endpoints",
        says="service cart has no endpoints",
        instead="write endpoints: [{address: 10.0.0.7}], a workloadSelector, or resolution: DNS",
    ),
    "a service that selects no workload": manifest(
        SERVICE.partition("  endpoints")[0] + "  workloadSelector: {labels: {app: nope}}\n",
        place=":11: spec.workloadSelector",
        says="no WorkloadEntry in namespace shop has the labels app=nope",
        instead="correct the labels, or add the WorkloadEntry",
    ),
    "port 0": manifest(
        SERVICE.replace("80", "0"), place=":9: spec.ports[0].number", says="0 is not a port", instead="from 1 to 65535"
    ),
    "port 70000": manifest(
        SERVICE.replace("80", "70000"),
        place=":9: spec.ports[0].number",
        says="70000 is not a port",
        instead="from 1 to 65535",
    ),
    "port 70000 in node.yaml": settings(
        "workload: shop/cart\nlisteners:\n  outbound: 127.0.0.1:70000\n",
        place=":3: listeners.outbound",
        says="'70000' is not a port",
        instead="to 65535",
    ),
    "port 0 to be exposed, in node.yaml": settings(
        "workload: shop/cart\nexposes:\n- {workload: shop/cart, port: 0, to: 127.0.0.1:80}\n",
        place=":3: exposes[0].port",
        says="0 is too small",
        instead="write 1 or more",
    ),
    "port 0 to forward to": Row(
        run=("forward", "--as", "shop/web", "9000:cart.shop:0"), place="", says="'0'", instead="65535"
    ),
    "a SPIFFE ID with an empty segment": manifest(
        f"{SERVICE}  subjectAltNames: ['spiffe://cluster.local/ns//sa/cart']\n",
        place=":13: spec.subjectAltNames[0]",
        says="path has an empty segment",
        instead="for example /ns/shop/sa/cart",
    ),
    "an identity with an empty part on the command line": Row(
        run=("forward", "--as", "shop/", "9000:cart.shop:80"),
        place="--as",
        says="'shop/' has an empty part",
        instead="write NAMESPACE/ACCOUNT, for example shop/cart",
    ),
    "an identity with an empty part in the environment": Row(
        run=("node",),
        env={"HBONE_WORKLOAD": "shop//cart"},
        place="$HBONE_WORKLOAD",
        says="'shop//cart' has an empty part",
        instead="for example shop/cart-0/cart",
    ),
    "an unknown key in node.yaml": settings(
        "workload: shop/cart\nlisteners:\n  soks: off\n",
        place=":3: listeners.soks",
        says="no such setting",
        instead="write socks",
    ),
    "an unknown key in the settings of hbone up": replace(
        settings("nonsense_key: 1\n", place=":1: nonsense_key", says="no such setting", instead=""),
        run=("up", "--config", "node.yaml"),
    ),
    "a variable that is almost one of ours": Row(
        run=("node",), env={"HBONE_INBOUNT": "off"}, place="$HBONE_INBOUNT", says="no such", instead="HBONE_INBOUND"
    ),
    "binary garbage as a manifest": manifest(
        bytes(range(1, 256)) * 20, place=":2", says="is not UTF-8", instead="save the file as UTF-8"
    ),
    "control characters as a manifest": manifest(
        b"\x00\x01\x02" * 99, place=":1", says="not valid YAML", instead="check"
    ),
    "a manifest in another encoding": manifest(
        WORKLOAD.replace("name: cart", "name: c\xe4rt").encode("latin-1"),
        place=":4",
        says="byte 0xe4 is not UTF-8",
        instead="save the file as UTF-8",
    ),
    "binary garbage as settings": settings(b"\xff\x00" * 50, place="", says="not UTF-8", instead="save it as UTF-8"),
    "a list as settings": settings("- a\n- b\n", place=":1", says="not a mapping", instead="KEY: VALUE"),
    "YAML with a broken quote": manifest('a: "b\n', place=":", says="not valid YAML", instead="quotes near this line"),
    "YAML indented with tabs": manifest("a:\n\tb: 1\n", place=":2", says="not valid YAML", instead="not tabs"),
    "a bomb of aliases as a manifest": manifest(BOMB, place=":7", says="more than 10000000 values", instead="fewer"),
    "a bomb of aliases as settings": settings(BOMB, place=":", says="more than", instead="aliases"),
    "an endless nest": manifest("a: " + "[" * 100_000, place=":1", says="nested deeper than 64", instead="flatter"),
    "settings of 100 MiB": settings(
        b"# " + b"x" * (100 << 20), place="", says="larger than 1 MiB", instead="this is no settings file"
    ),
    "a manifest of 100 MiB": manifest(
        b"# " + b"x" * (100 << 20), place="", says="a file of 104857602 bytes", instead="split it"
    ),
    "no manifests' directory": Row(place="mesh", says="no such directory", instead="create it, or correct the path"),
    "a file in place of the manifests' directory": Row(
        files={"mesh": ""}, place="mesh", says="not a directory", instead="name a directory of YAML files"
    ),
    "no settings file": Row(run=NODE, place="node.yaml", says="no such file", instead="check the path"),
    "a directory in place of the settings file": Row(
        files={"node.yaml/x": ""}, run=NODE, place="node.yaml", says="is a directory", instead="name a file"
    ),
    "a listener that is no address": Row(
        run=("up", "--inbound", "nonsense"), place="--inbound", says="'nonsense'", instead="write 127.0.0.1:15080"
    ),
    "an address that this machine does not have": Row(
        run=("up", "--inbound", "192.0.2.7:0"),
        place="--inbound",
        says="cannot listen on 192.0.2.7:0",
        instead="use an address that this machine has",
    ),
    "manifests without a CA": Row(
        run=("forward", "--as", "shop/web", "--manifests", "mesh", "9000:cart.shop:80"),
        place="--manifests without --ca",
        says="",
        instead="the running `hbone up` tells the mesh",
    ),
    "a place for tunnels without a CA": Row(
        run=("expose", "--as", "shop/web", "--listen", "127.0.0.21:15008", "8080"),
        place="--listen without --ca",
        says="",
        instead="the running `hbone up` gives each workload an address",
    ),
    "a trust domain without a CA": Row(
        run=("forward", "--as", "shop/web", "--trust-domain", "east.example", "9000:cart.shop:80"),
        place="--trust-domain without --ca",
        says="",
        instead="the running `hbone up` knows its trust domain",
    ),
    "a state directory whose path is too long for a socket": Row(
        run=("up", "--state-dir", "x" * 120),
        place="x" * 120,
        says="the system allows 107 bytes",
        instead="give a shorter --state-dir",
    ),
    "forward without hbone up": Row(
        run=("forward", "--as", "shop/web", "9000:cart.shop:80"),
        place="no `hbone up` is running here",
        says="control.sock",
        instead="start `hbone up` first, or stand alone with --ca DIR",
    ),
    "expose without hbone up": Row(
        run=("expose", "--as", "shop/web", "8080"),
        place="no `hbone up` is running here",
        says="control.sock",
        instead="start `hbone up` first, or stand alone with --ca DIR",
    ),
    "a node without anybody who issues certificates": Row(
        run=("node", "--workload", "shop/cart"),
        place="nobody is there to issue certificates",
        says="no CA directory is set, and no `hbone up` listens",
        instead="start `hbone up`, or set `ca`",
    ),
}


def assert_refused(done: Done, sandbox: Sandbox, *words: str) -> None:
    """One error with all the words, exit 2; no log line of something that began, and no state."""
    done.expect(2)
    assert done.out == ""
    assert done.err.count("error: ") == 1, done.err
    for word in words:
        assert word in done.err, f"{word!r} is missing in:\n{done.err}"
    assert "\tinfo\t" not in done.err
    assert not sandbox.state.exists()
    assert list(sandbox.home.iterdir()) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_error_with_its_place_and_what_to_write_instead(sandbox: Sandbox, mistake: str) -> None:
    row = MISTAKES[mistake]
    for name, content in row.files.items():
        sandbox.write(name, content)
    before = sorted(sandbox.work.rglob("*"))
    done = sandbox.run(*row.run, env=row.env)
    assert_refused(done, sandbox, f"error: {row.place}" if "yaml" in row.place else row.place, row.says, row.instead)
    assert sorted(sandbox.work.rglob("*")) == before


def test_mistakes_of_all_files_are_told_at_once(sandbox: Sandbox) -> None:
    sandbox.write("mesh/a.yaml", WORKLOAD.replace("127.0.0.9", "10.0.0.300"))
    sandbox.write("mesh/b.yaml", SERVICE.replace("80", "70000"))
    sandbox.write("mesh/c.yml", "kind: Nothing\n")
    error = sandbox.run(*MESH).expect(2).err
    assert [line.split(": ")[1] for line in error.splitlines()] == ["mesh/a.yaml:8", "mesh/b.yaml:9", "mesh/c.yml:1"]


def test_the_same_mistake_a_thousand_times_does_not_fill_the_screen(sandbox: Sandbox) -> None:
    sandbox.write("mesh/a.yaml", f"{WORKLOAD}---\n" * 1001)
    error = sandbox.run(*MESH).expect(2).err
    assert len(error.splitlines()) < 60
    assert "and 950 more like these" in error


# --- files that cannot be read ----------------------------------------------------------------------------------


def test_a_manifest_that_is_a_link_to_nowhere_is_told(sandbox: Sandbox) -> None:
    sandbox.write("mesh/a.yaml", WORKLOAD)
    (sandbox.work / "mesh/b.yaml").symlink_to("nowhere.yaml")
    assert_refused(sandbox.run(*MESH), sandbox, "mesh/b.yaml", "no such file or directory", "check the path")


def test_hidden_files_and_other_suffixes_are_no_manifests(sandbox: Sandbox) -> None:
    sandbox.write("mesh/.a.yaml.swp", "nonsense: [")
    sandbox.write("mesh/.git/b.yaml", "nonsense: [")
    sandbox.write("mesh/README.md", "nonsense: [")
    up = sandbox.start(*MESH)
    up.wait_for("mesh cluster.local is up: 0 workloads, 0 services")
    up.stop().expect(0)


# --- ports ------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> "socket.socket":
    return socket.create_server(("127.0.0.1", 0))


def test_a_port_already_taken_is_told_with_its_line_in_node_yaml(sandbox: Sandbox, taken: socket.socket) -> None:
    ca_files(sandbox.work / "ca")
    with taken:
        port = taken.getsockname()[1]
        sandbox.write("node.yaml", f"workload: shop/cart\nca: ca\nlisteners:\n  outbound: 127.0.0.1:{port}\n")
        done = sandbox.run(*NODE)
    words = ("error: node.yaml:4: listeners.outbound", f"cannot listen on 127.0.0.1:{port}: address already in use")
    assert_refused(done, sandbox, *words, "stop the process that listens", "or choose another port")


@pytest.mark.parametrize("place", ["--inbound", "$HBONE_INBOUND", "--socks", "$HBONE_SOCKS", "$HBONE_ADMIN"])
def test_a_port_already_taken_is_told_with_the_option_or_variable_that_chose_it(
    sandbox: Sandbox, taken: socket.socket, place: str
) -> None:
    with taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        given = (place, address) if place.startswith("-") else ()
        done = sandbox.run("up", *given, env={} if given else {place[1:]: address})
    assert_refused(done, sandbox, f"error: {place}: cannot listen on {address}", "stop the process that listens")


def test_the_usual_port_already_taken_is_told_with_how_to_choose_another(sandbox: Sandbox) -> None:
    """By whatever has it on this machine while the test runs, or by us."""
    try:
        holder = socket.create_server(("127.0.0.1", 15008))
    except OSError:
        holder = socket.socket()
    with holder:
        done = sandbox.run("up", env={"HBONE_INBOUND": ""})
    words = ("listeners.inbound: cannot listen on 0.0.0.0:15008", "choose another port: --inbound ADDR:PORT")
    assert_refused(done, sandbox, *words)


def test_a_port_already_taken_stops_a_forward_and_its_registration(sandbox: Sandbox, taken: socket.socket) -> None:
    up = sandbox.start("up")
    up.wait_for("is up")
    with taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = sandbox.run("forward", "--as", "shop/web", f"{address}:cart.shop:80").expect(2)
    assert f"cannot listen on {address}: Address already in use" in done.err
    up.wait_for("registration ended", "shop/web")


# --- CA files ---------------------------------------------------------------------------------------------------

FOREIGN_FILES = {
    "ca-key.pem": ("ca/ca-key.pem: the key does not belong to the certificate in ca-cert.pem", "from the same CA"),
    "root-cert.pem": ("ca/root-cert.pem: no root here vouches for ca-cert.pem", "give the root that issued it"),
    "cert-chain.pem": ("ca/cert-chain.pem: it does not begin with the certificate of ca-cert.pem", "ca-cert.pem first"),
}
STAND_ALONE = {
    "node": ("node", "--workload", "shop/cart", "--ca", "ca"),
    "up": ("up", "--ca", "ca"),
    "forward": ("forward", "--as", "shop/cart", "--ca", "ca", "0:cart.shop:80"),
    "expose": ("expose", "--as", "shop/cart", "--ca", "ca", "8080"),
    "cert issue": ("cert", "issue", "--as", "shop/cart", "--ca", "ca", "--out", "made"),
}


@pytest.mark.parametrize("file", FOREIGN_FILES)
def test_ca_files_that_do_not_match_each_other_are_refused(sandbox: Sandbox, file: str) -> None:
    ca_files(sandbox.work / "ca")
    ca_files(sandbox.work / "other")
    (sandbox.work / "ca" / file).write_bytes((sandbox.work / "other" / file).read_bytes())
    assert_refused(sandbox.run(*STAND_ALONE["node"]), sandbox, *FOREIGN_FILES[file])


@pytest.mark.parametrize("command", STAND_ALONE)
def test_every_command_that_takes_a_ca_refuses_one_whose_files_do_not_match(sandbox: Sandbox, command: str) -> None:
    ca_files(sandbox.work / "ca")
    ca_files(sandbox.work / "other")
    (sandbox.work / "ca/ca-key.pem").write_bytes((sandbox.work / "other/ca-key.pem").read_bytes())
    assert_refused(sandbox.run(*STAND_ALONE[command]), sandbox, *FOREIGN_FILES["ca-key.pem"])
    assert not (sandbox.work / "made").exists()


@pytest.mark.parametrize("file", ["ca-key.pem", "root-cert.pem"])
def test_a_ca_without_one_of_its_files_is_told_which_it_needs(sandbox: Sandbox, file: str) -> None:
    ca_files(sandbox.work / "ca")
    (sandbox.work / "ca" / file).unlink()
    assert_refused(sandbox.run(*STAND_ALONE["node"]), sandbox, f"ca/{file}: the file is missing", "a CA needs")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("ca-cert.pem", b"hello"),
        ("ca-key.pem", bytes(range(256))),
        ("cert-chain.pem", b""),
        ("root-cert.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ],
)
def test_a_ca_with_garbage_in_one_of_its_files_is_refused(sandbox: Sandbox, file: str, content: bytes) -> None:
    (ca_files(sandbox.work / "ca") / file).write_bytes(content)
    assert_refused(sandbox.run(*STAND_ALONE["node"]), sandbox, f"ca/{file}: ")


def test_a_ca_with_a_directory_in_place_of_a_file_is_refused(sandbox: Sandbox) -> None:
    key = ca_files(sandbox.work / "ca") / "ca-key.pem"
    key.unlink()
    key.mkdir()
    assert_refused(sandbox.run(*STAND_ALONE["node"]), sandbox, "Is a directory (ca/ca-key.pem)")


def test_no_ca_directory_is_told(sandbox: Sandbox) -> None:
    done = sandbox.run(*STAND_ALONE["node"])
    assert_refused(done, sandbox, "the CA directory ca cannot be used: No such file or directory", "check the path")


def test_check_judges_settings_manifests_and_ca_and_starts_nothing(sandbox: Sandbox) -> None:
    ca_files(sandbox.work / "ca")
    sandbox.write("mesh/a.yaml", WORKLOAD)
    sandbox.write("node.yaml", json.dumps({"workload": "shop/cart", "ca": "ca", "manifests": "mesh"}))
    assert "are good" in sandbox.run(*NODE, "--check").expect(0).out
    sandbox.write("mesh/a.yaml", SERVICE.replace("80", "70000"))
    assert_refused(sandbox.run(*NODE, "--check"), sandbox, "mesh/a.yaml:9: spec.ports[0].number")
