"""A CA as a set of files, in Istio's two layouts: `authority_from` reads file contents, `files_of` writes them.

| plugged-in layout | kubernetes.io/tls layout | content |
| --- | --- | --- |
| `ca-cert.pem` | `tls.crt` | the signing certificate |
| `ca-key.pem` | `tls.key` | its key |
| `cert-chain.pem` | `tls.crt` + `ca.crt` | from the signing certificate up |
| `root-cert.pem` | `ca.crt` | the roots |

`root-key.pem` is ours: the key of a root that we made. Everything that is wrong with a set is reported at once.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.verification import Store, VerificationError

from hbone.ca.authority import CertificateAuthority
from hbone.errors import InvalidConfiguration, Problem
from hbone.identity.pem import NoCertificates, certificates_in
from hbone.identity.spiffe import TrustDomain
from hbone.identity.svid import InvalidSvid, PrivateKey, key_der, load_key, public_der
from hbone.identity.verify import path_to_root
from hbone.times import WallTime
from hbone.values import dataclass

ROOT_KEY = "root-key.pem"
SECRET_FILES = frozenset({"ca-key.pem", "tls.key", ROOT_KEY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """File names by role."""

    signer: str
    key: str
    chain: str
    roots: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.signer, self.key, self.chain, self.roots)))


PLUGGED_IN = Layout(signer="ca-cert.pem", key="ca-key.pem", chain="cert-chain.pem", roots="root-cert.pem")
KUBERNETES_TLS = Layout(signer="tls.crt", key="tls.key", chain="tls.crt", roots="ca.crt")
KNOWN_FILES = frozenset((*PLUGGED_IN.names, *KUBERNETES_TLS.names, ROOT_KEY))


def layout_of(names: frozenset[str]) -> Layout:
    """As istiod chooses: `tls.crt` decides for the Kubernetes layout."""
    return KUBERNETES_TLS if KUBERNETES_TLS.signer in names else PLUGGED_IN


def authority_from(
    files: Mapping[str, bytes], trust_domain: TrustDomain, *, now: WallTime, directory: str = ""
) -> CertificateAuthority:
    """The authority in `files` (name → content); raises InvalidConfiguration with every problem found.

    `directory` is put before the names in problems.
    """
    layout = layout_of(frozenset(files))
    reader = _Reader(files, f"{directory.rstrip('/')}/" if directory else "")
    missing = [name for name in layout.names if name not in files]
    for name in missing:
        there = ", ".join(sorted(set(layout.names) & set(files))) or "none of the others"
        reader.problem(name, "the file is missing", f"a CA needs {', '.join(layout.names)}; there is {there}")
    signers = reader.certificates(layout.signer)
    chain = signers if layout.chain == layout.signer else reader.certificates(layout.chain)
    roots = reader.certificates(layout.roots)
    key = reader.key(layout.key)
    root_key = reader.key(ROOT_KEY) if ROOT_KEY in files else None
    if signers:
        _check_signer(reader, layout, signers[0], key, now)
    for root in roots:
        if not _is_ca(root):
            reader.problem(layout.roots, f"{_name(root)} is not a CA certificate", "keep only roots in this file")
    if signers and roots and chain:
        _check_path(reader, layout, (signers[0], chain, roots), now)
    if reader.problems or key is None:
        raise InvalidConfiguration(reader.problems)
    signer = signers[0]
    between = [certificate for certificate in (signer, *chain) if certificate not in roots]
    return CertificateAuthority(
        trust_domain=trust_domain,
        signer=signer,
        key=key,
        chain=tuple(dict.fromkeys(between)),
        roots=tuple(dict.fromkeys(roots)),
        root_key=root_key,
    )


def files_of(authority: CertificateAuthority) -> dict[str, bytes]:
    """The plugged-in layout, ready to be written; those in SECRET_FILES must be readable by their owner alone."""
    up = (*authority.chain, *authority.roots) if authority.chain else authority.roots
    files = {
        PLUGGED_IN.signer: _pem(authority.signer),
        PLUGGED_IN.key: _key_pem(authority.key),
        PLUGGED_IN.chain: _pem(*up),
        PLUGGED_IN.roots: _pem(*authority.roots),
    }
    if authority.root_key is not None:
        files[ROOT_KEY] = _key_pem(authority.root_key)
    return files


class _Reader:
    """Parses files and gathers problems."""

    def __init__(self, files: Mapping[str, bytes], prefix: str) -> None:
        self._files = files
        self._prefix = prefix
        self.problems: list[Problem] = []

    def problem(self, name: str, what: str, fix: str) -> None:
        self.problems.append(Problem(what=what, fix=fix, file=self._prefix + name))

    def certificates(self, name: str) -> list[x509.Certificate]:
        """All of a file; empty, with a problem, if there are none."""
        if name not in self._files:
            return []
        try:
            return certificates_in(self._files[name])
        except NoCertificates as error:
            self.problem(name, f"no PEM certificates: {error}", "put BEGIN CERTIFICATE blocks here")
            return []

    def key(self, name: str) -> PrivateKey | None:
        if name not in self._files:
            return None
        try:
            return load_key(self._files[name])
        except InvalidSvid as error:
            self.problem(name, error.what, error.fix)
            return None


def _check_signer(
    reader: _Reader, layout: Layout, signer: x509.Certificate, key: PrivateKey | None, now: WallTime
) -> None:
    moment = datetime.fromtimestamp(now, UTC)
    if not _is_ca(signer):
        reader.problem(
            layout.signer, "the certificate is not a CA", "have it issued with CA:TRUE and, if any, keyCertSign"
        )
    if moment > signer.not_valid_after_utc:
        reader.problem(
            layout.signer, f"the certificate ended at {signer.not_valid_after_utc:%FT%TZ}", "replace the CA's files"
        )
    if moment < signer.not_valid_before_utc:
        reader.problem(
            layout.signer,
            f"the certificate begins at {signer.not_valid_before_utc:%FT%TZ}",
            "check this machine's clock",
        )
    if key is not None and public_der(signer) != key_der(key):
        reader.problem(
            layout.key,
            f"the key does not belong to the certificate in {layout.signer}",
            "copy both files from the same CA",
        )


def _check_path(
    reader: _Reader,
    layout: Layout,
    found: tuple[x509.Certificate, list[x509.Certificate], list[x509.Certificate]],
    now: WallTime,
) -> None:
    signer, chain, roots = found
    if chain[0] != signer:
        reader.problem(
            layout.chain,
            f"it does not begin with the certificate of {layout.signer}",
            f"write {layout.signer} first, then its issuers up to the root",
        )
        return
    if signer in roots:
        return
    moment = datetime.fromtimestamp(now, UTC)
    moment = min(max(moment, signer.not_valid_before_utc), signer.not_valid_after_utc)  # its dates are reported apart
    try:
        path = path_to_root(chain, Store(roots), moment)
    except VerificationError as error:
        reader.problem(
            layout.roots,
            f"no root here vouches for {layout.signer} ({_name(signer)}, issued by {signer.issuer.rfc4514_string()})",
            f"give the root that issued it, and what lies between in {layout.chain}; ({str(error)[:150]})",
        )
        return
    for below, certificate in enumerate(path):
        limit = _path_length(certificate)
        if limit is not None and limit < below:
            reader.problem(
                layout.chain,
                f"{_name(certificate)} allows {limit} CAs below it, there are {below}",
                "have the CA issued with a larger path length",
            )


def _is_ca(certificate: x509.Certificate) -> bool:
    """CA:TRUE, and keyCertSign where there is a key usage at all."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return constraints.ca
    return constraints.ca and usage.key_cert_sign


def _path_length(certificate: x509.Certificate) -> int | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    except x509.ExtensionNotFound:
        return None


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "a certificate without a name"


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
