"""Settings of federation: where this trust domain's bundle is served, and where those of others come from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import PlainSerializer, WithJsonSchema

from hbone.config.fields import Count, DomainName, DomainNames, Settings, parsed, required, setting
from hbone.config.urls import HttpsUrl
from hbone.identity.spiffe import SpiffeId

Profile = Literal["https_spiffe", "https_web"]

_AS_TEXT_OR_NONE = PlainSerializer(lambda value: None if value is None else str(value), return_type=str | None)

OptionalUrl = Annotated[
    HttpsUrl | None,
    parsed(lambda value: value if value is None else HttpsUrl.parse(str(value)), HttpsUrl),
    _AS_TEXT_OR_NONE,
    WithJsonSchema({"anyOf": [{"type": "string", "examples": ["https://mesh.example:8443/"]}, {"type": "null"}]}),
]
OptionalSpiffeId = Annotated[
    SpiffeId | None,
    parsed(lambda value: value if value is None else SpiffeId.parse(str(value)), SpiffeId),
    _AS_TEXT_OR_NONE,
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": "^spiffe://"}, {"type": "null"}]}),
]


class BundleEndpoint(Settings):
    """How this trust domain's bundle is served at `listeners.bundles` (SPIFFE Federation)."""

    profile: Profile = setting(
        "https_spiffe",
        "https_spiffe: known by the control plane's own SPIFFE ID; https_web: by a host name, with a certificate of "
        "the web's PKI",
    )
    certificate: Path | None = setting(
        None, "for https_web: PEM file of the certificate and its chain, read again as it changes"
    )
    certificate_key: Path | None = setting(None, "for https_web: PEM file of its private key")
    refresh_hint_s: Count = setting(
        300, "how often others should look for a new bundle, in whole seconds", ge=1, le=86_400
    )


class FederatedDomain(Settings):
    """Another trust domain whose identities are accepted: where its bundle comes from."""

    trust_domain: DomainName = required("its name")
    trust_domain_aliases: DomainNames = setting((), "further names of it, while it is being renamed")
    url: OptionalUrl = setting(None, "https:// address of its bundle endpoint; without one `bundle` is all there is")
    profile: Profile = setting(
        "https_spiffe", "how that endpoint is known: by a SPIFFE ID, or by its host name (https_web)"
    )
    endpoint_spiffe_id: OptionalSpiffeId = setting(
        None, "for https_spiffe: its SPIFFE ID; by default that of a control plane of hbone in that trust domain"
    )
    bundle: Path | None = setting(
        None, "file with its bundle, a SPIFFE bundle document or PEM, read again as it changes; with `url` the first "
        "one, which vouches for the first fetch by https_spiffe",
    )  # fmt: skip
    roots: Path | None = setting(None, "for https_web: PEM file of roots for that URL; by default the system's")
