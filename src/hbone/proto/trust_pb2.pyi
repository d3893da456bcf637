from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrustBundle(_message.Message):
    __slots__ = ("trust_domain", "roots", "issuers", "crls", "revoked_keys", "revoked_identities", "renew", "sequence", "aliases", "jwt_keys")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    ISSUERS_FIELD_NUMBER: _ClassVar[int]
    CRLS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    JWT_KEYS_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    roots: _containers.RepeatedScalarFieldContainer[bytes]
    issuers: _containers.RepeatedScalarFieldContainer[bytes]
    crls: _containers.RepeatedScalarFieldContainer[bytes]
    revoked_keys: _containers.RepeatedCompositeFieldContainer[RevokedKey]
    revoked_identities: _containers.RepeatedCompositeFieldContainer[RevokedIdentity]
    renew: _containers.RepeatedScalarFieldContainer[bytes]
    sequence: int
    aliases: _containers.RepeatedScalarFieldContainer[str]
    jwt_keys: bytes
    def __init__(self, trust_domain: _Optional[str] = ..., roots: _Optional[_Iterable[bytes]] = ..., issuers: _Optional[_Iterable[bytes]] = ..., crls: _Optional[_Iterable[bytes]] = ..., revoked_keys: _Optional[_Iterable[_Union[RevokedKey, _Mapping]]] = ..., revoked_identities: _Optional[_Iterable[_Union[RevokedIdentity, _Mapping]]] = ..., renew: _Optional[_Iterable[bytes]] = ..., sequence: _Optional[int] = ..., aliases: _Optional[_Iterable[str]] = ..., jwt_keys: _Optional[bytes] = ...) -> None: ...

class RevokedKey(_message.Message):
    __slots__ = ("sha256", "reason")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    reason: str
    def __init__(self, sha256: _Optional[bytes] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokedIdentity(_message.Message):
    __slots__ = ("spiffe_id", "reason", "before")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    reason: str
    before: int
    def __init__(self, spiffe_id: _Optional[str] = ..., reason: _Optional[str] = ..., before: _Optional[int] = ...) -> None: ...
