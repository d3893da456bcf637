"""The tables of a control plane's state, and how a database of an older version becomes one of this.

`audit` is append-only: triggers refuse to change or delete what is written, and each line carries a digest over
itself and the one before, so that a line taken out or altered from outside shows (`hbone ca audit --check`).
Times are Unix seconds; serial numbers are 20 bytes, big-endian, which is the longest that RFC 5280 §4.1.2.2 allows.
"""

import sqlite3
from typing import Final

SERIAL_BYTES: Final = 20

_TABLES: Final = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE authorities (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL CHECK (source IN ('own', 'plugged')),
    state TEXT NOT NULL,
    since REAL NOT NULL,
    created_at REAL NOT NULL,
    key_id TEXT NOT NULL,
    root_key_id TEXT,
    signer TEXT NOT NULL,
    chain TEXT NOT NULL,
    roots TEXT NOT NULL
);
CREATE UNIQUE INDEX one_authority_signs ON authorities (source) WHERE state = 'active';

CREATE TABLE certificates (
    serial BLOB PRIMARY KEY,
    authority INTEGER NOT NULL REFERENCES authorities (number),
    spiffe_id TEXT NOT NULL,
    key_sha256 BLOB NOT NULL,
    issued_at REAL NOT NULL,
    not_after REAL NOT NULL,
    caller TEXT NOT NULL,
    holder TEXT NOT NULL,
    superseded_at REAL,
    revoked_at REAL,
    reason TEXT
) WITHOUT ROWID;
CREATE INDEX certificates_by_identity ON certificates (spiffe_id, not_after);
CREATE INDEX certificates_held ON certificates (holder, spiffe_id) WHERE superseded_at IS NULL AND holder <> '';
CREATE INDEX certificates_by_end ON certificates (not_after);
CREATE INDEX certificates_by_key ON certificates (key_sha256);
CREATE INDEX certificates_revoked ON certificates (authority, not_after) WHERE revoked_at IS NOT NULL;

CREATE TABLE revocations (
    kind TEXT NOT NULL CHECK (kind IN ('key', 'identity', 'holder')),
    value TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    lifted_at REAL,
    PRIMARY KEY (kind, value)
) WITHOUT ROWID;

CREATE TABLE registrations (
    uid TEXT PRIMARY KEY,
    holder_uid INTEGER NOT NULL,
    wish TEXT NOT NULL,
    at REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    line TEXT NOT NULL,
    digest BLOB NOT NULL
);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_never_deleted BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""

_JOIN_TOKENS: Final = """
CREATE TABLE join_tokens (
    token_id TEXT PRIMARY KEY,
    secret_sha256 TEXT NOT NULL,
    identity TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL,
    creator TEXT NOT NULL,
    used_by TEXT NOT NULL,
    used_at REAL
) WITHOUT ROWID;
"""

_FEDERATED_BUNDLES: Final = """
CREATE TABLE federated_bundles (
    trust_domain TEXT PRIMARY KEY,
    document TEXT NOT NULL,
    taken_at REAL NOT NULL,
    file_sha256 TEXT NOT NULL
) WITHOUT ROWID;
"""

_MIGRATIONS: Final = (_TABLES, _JOIN_TOKENS, _FEDERATED_BUNDLES)
"""Number n leads from version n to n + 1. Released ones are never edited: what changes is one more."""

VERSION: Final = len(_MIGRATIONS)


class NewerSchema(Exception):
    """The database was written by a later version of hbone. Attribute: `found`."""

    def __init__(self, found: int) -> None:
        super().__init__(f"schema version {found}")
        self.found = found


def migrate(database: sqlite3.Connection) -> None:
    """Bring a database, new or old, to VERSION; each step whole or not at all. Raises NewerSchema, sqlite3.Error."""
    found = version_of(database)
    if found > VERSION:
        raise NewerSchema(found)
    for version in range(found, VERSION):
        # executescript commits what is open before it begins, so the transaction is inside the script
        database.executescript(
            f"BEGIN IMMEDIATE;\n{_MIGRATIONS[version]}\nPRAGMA user_version = {version + 1};\nCOMMIT;"
        )


def version_of(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])
