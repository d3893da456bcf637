from hbone.proto import trust_pb2 as _trust_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CaStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CaStatusResponse(_message.Message):
    __slots__ = ("trust_domain", "authorities", "rotation", "nodes", "certificates_in_use", "revoked_serials", "revoked_keys", "revoked_identities", "bundle_sequence", "warnings", "federated")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    ROTATION_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_IN_USE_FIELD_NUMBER: _ClassVar[int]
    REVOKED_SERIALS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_KEYS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    FEDERATED_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    authorities: _containers.RepeatedCompositeFieldContainer[Authority]
    rotation: Rotation
    nodes: _containers.RepeatedCompositeFieldContainer[NodeTrust]
    certificates_in_use: int
    revoked_serials: int
    revoked_keys: int
    revoked_identities: int
    bundle_sequence: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    federated: _containers.RepeatedCompositeFieldContainer[FederatedDomain]
    def __init__(self, trust_domain: _Optional[str] = ..., authorities: _Optional[_Iterable[_Union[Authority, _Mapping]]] = ..., rotation: _Optional[_Union[Rotation, _Mapping]] = ..., nodes: _Optional[_Iterable[_Union[NodeTrust, _Mapping]]] = ..., certificates_in_use: _Optional[int] = ..., revoked_serials: _Optional[int] = ..., revoked_keys: _Optional[int] = ..., revoked_identities: _Optional[int] = ..., bundle_sequence: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., federated: _Optional[_Iterable[_Union[FederatedDomain, _Mapping]]] = ...) -> None: ...

class FederatedDomain(_message.Message):
    __slots__ = ("trust_domain", "source", "sequence", "roots", "jwt_keys", "taken_at", "looked_at", "next_look_s", "error")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    JWT_KEYS_FIELD_NUMBER: _ClassVar[int]
    TAKEN_AT_FIELD_NUMBER: _ClassVar[int]
    LOOKED_AT_FIELD_NUMBER: _ClassVar[int]
    NEXT_LOOK_S_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    source: str
    sequence: int
    roots: int
    jwt_keys: int
    taken_at: float
    looked_at: float
    next_look_s: float
    error: str
    def __init__(self, trust_domain: _Optional[str] = ..., source: _Optional[str] = ..., sequence: _Optional[int] = ..., roots: _Optional[int] = ..., jwt_keys: _Optional[int] = ..., taken_at: _Optional[float] = ..., looked_at: _Optional[float] = ..., next_look_s: _Optional[float] = ..., error: _Optional[str] = ...) -> None: ...

class Authority(_message.Message):
    __slots__ = ("number", "state", "since", "signer", "not_after", "root", "root_sha256", "root_not_after", "certificates_in_use", "has_root_key")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    SIGNER_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROOT_SHA256_FIELD_NUMBER: _ClassVar[int]
    ROOT_NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_IN_USE_FIELD_NUMBER: _ClassVar[int]
    HAS_ROOT_KEY_FIELD_NUMBER: _ClassVar[int]
    number: int
    state: str
    since: float
    signer: str
    not_after: float
    root: str
    root_sha256: str
    root_not_after: float
    certificates_in_use: int
    has_root_key: bool
    def __init__(self, number: _Optional[int] = ..., state: _Optional[str] = ..., since: _Optional[float] = ..., signer: _Optional[str] = ..., not_after: _Optional[float] = ..., root: _Optional[str] = ..., root_sha256: _Optional[str] = ..., root_not_after: _Optional[float] = ..., certificates_in_use: _Optional[int] = ..., has_root_key: _Optional[bool] = ...) -> None: ...

class Rotation(_message.Message):
    __slots__ = ("phase", "waiting", "paused")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    phase: str
    waiting: _containers.RepeatedScalarFieldContainer[str]
    paused: bool
    def __init__(self, phase: _Optional[str] = ..., waiting: _Optional[_Iterable[str]] = ..., paused: _Optional[bool] = ...) -> None: ...

class NodeTrust(_message.Message):
    __slots__ = ("node", "caller", "current", "aware", "refused")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    AWARE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    node: str
    caller: str
    current: bool
    aware: bool
    refused: str
    def __init__(self, node: _Optional[str] = ..., caller: _Optional[str] = ..., current: _Optional[bool] = ..., aware: _Optional[bool] = ..., refused: _Optional[str] = ...) -> None: ...

class RotateIntermediateRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RotateRootRequest(_message.Message):
    __slots__ = ("action",)
    class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FORWARD: _ClassVar[RotateRootRequest.Action]
        BACK: _ClassVar[RotateRootRequest.Action]
        RECOVER: _ClassVar[RotateRootRequest.Action]
        FORCE: _ClassVar[RotateRootRequest.Action]
    FORWARD: RotateRootRequest.Action
    BACK: RotateRootRequest.Action
    RECOVER: RotateRootRequest.Action
    FORCE: RotateRootRequest.Action
    ACTION_FIELD_NUMBER: _ClassVar[int]
    action: RotateRootRequest.Action
    def __init__(self, action: _Optional[_Union[RotateRootRequest.Action, str]] = ...) -> None: ...

class ImportCaRequest(_message.Message):
    __slots__ = ("files",)
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    FILES_FIELD_NUMBER: _ClassVar[int]
    files: _containers.ScalarMap[str, bytes]
    def __init__(self, files: _Optional[_Mapping[str, bytes]] = ...) -> None: ...

class GetBundleRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetBundleDocumentRequest(_message.Message):
    __slots__ = ("trust_domain",)
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    def __init__(self, trust_domain: _Optional[str] = ...) -> None: ...

class GetBundleDocumentResponse(_message.Message):
    __slots__ = ("json",)
    JSON_FIELD_NUMBER: _ClassVar[int]
    json: str
    def __init__(self, json: _Optional[str] = ...) -> None: ...

class ListCertificatesRequest(_message.Message):
    __slots__ = ("spiffe_id", "revoked_only", "include_ended", "limit")
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    REVOKED_ONLY_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_ENDED_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    revoked_only: bool
    include_ended: bool
    limit: int
    def __init__(self, spiffe_id: _Optional[str] = ..., revoked_only: _Optional[bool] = ..., include_ended: _Optional[bool] = ..., limit: _Optional[int] = ...) -> None: ...

class ListCertificatesResponse(_message.Message):
    __slots__ = ("certificates",)
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    certificates: _containers.RepeatedCompositeFieldContainer[Certificate]
    def __init__(self, certificates: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("serial", "spiffe_id", "key_sha256", "authority", "issued_at", "not_after", "caller", "state", "revoked_at", "reason")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    serial: str
    spiffe_id: str
    key_sha256: str
    authority: int
    issued_at: float
    not_after: float
    caller: str
    state: str
    revoked_at: float
    reason: str
    def __init__(self, serial: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., key_sha256: _Optional[str] = ..., authority: _Optional[int] = ..., issued_at: _Optional[float] = ..., not_after: _Optional[float] = ..., caller: _Optional[str] = ..., state: _Optional[str] = ..., revoked_at: _Optional[float] = ..., reason: _Optional[str] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("serial", "spiffe_id", "key_sha256", "reason")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    serial: str
    spiffe_id: str
    key_sha256: str
    reason: str
    def __init__(self, serial: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., key_sha256: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("spiffe_id",)
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    spiffe_id: str
    def __init__(self, spiffe_id: _Optional[str] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ("what", "certificates", "nodes", "nodes_current")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NODES_CURRENT_FIELD_NUMBER: _ClassVar[int]
    what: str
    certificates: int
    nodes: int
    nodes_current: int
    def __init__(self, what: _Optional[str] = ..., certificates: _Optional[int] = ..., nodes: _Optional[int] = ..., nodes_current: _Optional[int] = ...) -> None: ...

class ListAuditRequest(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: int
    limit: int
    def __init__(self, after: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class ListAuditResponse(_message.Message):
    __slots__ = ("lines", "first_fault")
    LINES_FIELD_NUMBER: _ClassVar[int]
    FIRST_FAULT_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[AuditLine]
    first_fault: int
    def __init__(self, lines: _Optional[_Iterable[_Union[AuditLine, _Mapping]]] = ..., first_fault: _Optional[int] = ...) -> None: ...

class AuditLine(_message.Message):
    __slots__ = ("number", "line")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    number: int
    line: str
    def __init__(self, number: _Optional[int] = ..., line: _Optional[str] = ...) -> None: ...
