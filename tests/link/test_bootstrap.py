"""A node set up as Istio sets up a ztunnel: addresses, root file, token file and names from the environment."""

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from hbone.app.bootstrap import bootstrap, is_foreign, node_id, node_metadata
from hbone.app.parts import identity_source
from hbone.app.place import Place
from hbone.config.load import load_node
from hbone.config.model import NodeSettings
from hbone.config.show import show
from hbone.control.ca_client import CaClient
from hbone.control.channel import ControlRefused, UnixEndpoint
from hbone.control.jwks import FileKeys
from hbone.control.jwt_auth import JwtRule
from hbone.control.serving import ServerNames
from hbone.control.tls_endpoint import BearerToken, InvalidEndpoint, TlsEndpoint
from hbone.discovery.model import Workload
from hbone.discovery.store import Source, Update
from hbone.errors import InvalidConfiguration, Unreachable
from hbone.identity.jwk import to_jwk
from hbone.identity.jws import sign_es256
from hbone.net.clock import SystemClock, new_key
from tests.support.controlplane import DOMAIN, spiffe
from tests.support.remote import Remote, Wanted, remote

DB = spiffe("shop", "db")
KEY = new_key()
HERE = ServerNames(ips=(ip_address("127.0.0.1"),))


def wanted(directory: Path, names: ServerNames = HERE) -> Wanted:
    keys = directory / "jwks.json"
    keys.write_text(json.dumps({"keys": [{**to_jwk(KEY.public_key()), "kid": "k"}]}))
    rule = JwtRule(issuer="https://cluster", audiences=frozenset({"istio-ca"}), keys=FileKeys(keys))
    return Wanted(rules=[rule], node_accounts=frozenset({("istio-system", "ztunnel")}), names=names)


def token() -> str:
    body = {
        "iss": "https://cluster",
        "aud": ["istio-ca"],
        "sub": "system:serviceaccount:istio-system:ztunnel",
        "exp": SystemClock().wall() + 600,
        "kubernetes.io": {"node": {"name": "n1"}, "namespace": "istio-system"},
    }
    return sign_es256(KEY, "k", body)


def environment(up: Remote, directory: Path) -> dict[str, str]:
    """As in the ztunnel's pod."""
    (directory / "root-cert.pem").write_bytes(up.authority.bundle.pem(DOMAIN))
    (directory / "istio-token").write_text(token())
    return {
        "CA_ADDRESS": str(up.address),
        "XDS_ADDRESS": f"https://{up.address}",
        "CA_ROOT_CA": str(directory / "root-cert.pem"),
        "AUTH_TOKEN": str(directory / "istio-token"),
        "NODE_NAME": "n1",
        "CLUSTER_ID": "east",
        "POD_NAME": "ztunnel-abcde",
        "POD_NAMESPACE": "istio-system",
        "INSTANCE_IP": "10.0.0.7",
        "ISTIO_META_DNS_CAPTURE": "true",
        "CA_HEADER_X_TENANT": "blue",
    }


async def test_a_ztunnels_environment_is_enough(tmp_path: Path) -> None:
    async with remote(tmp_path, wanted(tmp_path)) as up:
        placed = Workload(uid="a", name="db-0", namespace="shop", service_account="db", node="n1", addresses=())
        up.mesh.apply(Update(workloads=(placed,)), Source.MANIFESTS)
        variables = environment(up, tmp_path)
        settings = load_node(None, variables).settings
        found = bootstrap(settings, variables)
        assert found is not None
        assert (await CaClient(found.ca, ttl_s=60).fetch(DB)).svid.spiffe_id == DB
        assert found.ca.metadata()["clusterid"] == "east"
        assert found.ca.metadata()["x_tenant"] == "blue"
        assert "x_tenant" not in found.xds.metadata()
        assert is_foreign(found.xds)
        (tmp_path / "istio-token").write_text("expired.by.now")  # read again for each call
        with pytest.raises(ControlRefused, match="UNAUTHENTICATED"):
            await CaClient(found.ca, ttl_s=60).fetch(DB)


async def test_a_second_host_name_is_accepted_and_no_third(tmp_path: Path) -> None:
    async with remote(tmp_path, wanted(tmp_path, ServerNames(dns=("ca.example",)))) as up:
        variables = environment(up, tmp_path)
        other = bootstrap(load_node(None, {**variables, "ALT_CA_HOSTNAME": "ca.example"}).settings, variables)
        assert other is not None
        with pytest.raises(ControlRefused, match="no workload of"):  # the connection is good, the identity is not
            await CaClient(other.ca, ttl_s=60).fetch(DB)
        plain = bootstrap(load_node(None, variables).settings, variables)
        assert plain is not None
        with pytest.raises(Unreachable, match=r"(?i)mismatch"):
            await CaClient(plain.ca, ttl_s=60).fetch(DB)


async def test_a_node_takes_its_certificates_there_and_asks_for_its_own_without_impersonation(tmp_path: Path) -> None:
    async with remote(tmp_path, wanted(tmp_path)) as up:
        variables = {**environment(up, tmp_path), "PROXY_WORKLOAD_INFO": "istio-system/ztunnel-abcde/ztunnel"}
        settings = load_node(None, variables).settings
        source, endpoint = identity_source(settings, Place(environment=variables, state_dir=tmp_path / "none"))
        own = spiffe("istio-system", "ztunnel")
        assert (await source.fetch(own)).svid.spiffe_id == own
        assert isinstance(endpoint, TlsEndpoint)


def test_who_the_node_says_it_is(tmp_path: Path) -> None:
    variables = {"POD_NAME": "z", "POD_NAMESPACE": "istio-system", "INSTANCE_IP": "10.0.0.7", "ISTIO_META_X": "y"}
    settings = load_node(None, {"NODE_NAME": "n1"}).settings
    assert node_id(settings, variables) == "ztunnel~10.0.0.7~z.istio-system~istio-system.svc.cluster.local"
    assert node_metadata(settings, variables) == {
        "NAME": "z",
        "NAMESPACE": "istio-system",
        "INSTANCE_IPS": "10.0.0.7",
        "X": "y",
        "NODE_NAME": "n1",
        "NETWORK": "",
        "CLUSTER_ID": "Kubernetes",
    }
    assert node_id(NodeSettings(), {}).startswith("ztunnel~1.1.1.1~")


def test_inside_a_cluster_istiod_is_the_default() -> None:
    inside = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    found = bootstrap(NodeSettings(), inside)
    assert found is not None
    assert str(found.ca) == str(found.xds) == "istiod.istio-system.svc:15012"
    assert bootstrap(NodeSettings(), {}) is None


def test_a_running_hbone_up_comes_before_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "control.sock").touch()
    place = Place(environment={"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, state_dir=tmp_path)
    assert isinstance(identity_source(NodeSettings(), place)[1], UnixEndpoint)


def test_addresses_that_are_none_and_sources_that_contradict(tmp_path: Path) -> None:
    with pytest.raises(InvalidEndpoint, match="TLS only"):
        bootstrap(NodeSettings(ca_address="http://istiod:15010"), {})
    with pytest.raises(InvalidConfiguration, match="certificates cannot come from ca too"):
        load_node(None, {"CA_ADDRESS": "istiod:15012", "HBONE_CA": str(tmp_path), "PROXY_WORKLOAD_INFO": "a/b/c"})


LITERALS = {"a JWT": token(), "opaque": "0123456789abcdef" * 20, "short": "c2VjcmV0", "base64": "a/b+c=" * 60}


@pytest.mark.parametrize("kind", LITERALS)
def test_a_token_is_never_printed(kind: str) -> None:
    literal = LITERALS[kind]
    loaded = load_node(None, {"AUTH_TOKEN": literal, "CA_ADDRESS": "istiod:15012"})
    assert loaded.settings.auth_token == literal
    assert literal not in show(loaded)
    assert "a token" in show(loaded)
    assert literal not in str(loaded.settings.model_dump(mode="json"))
    assert BearerToken(literal).value() == literal


@pytest.mark.parametrize("source", ["./nowhere/token", "/nowhere/token"])
def test_a_token_file_that_is_not_there_is_not_shown_to_the_control_plane_as_a_token(source: str) -> None:
    with pytest.raises(InvalidEndpoint, match="No such file"):
        BearerToken(source).value()
    assert source in show(load_node(None, {"AUTH_TOKEN": source, "CA_ADDRESS": "istiod:15012"}))
