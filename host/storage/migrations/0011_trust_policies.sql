-- How many publishers must have signed the plugins of a namespace.
CREATE TABLE trust_policies (
    namespace TEXT PRIMARY KEY,
    threshold INTEGER NOT NULL CHECK (threshold > 0),
    publishers TEXT NOT NULL,
    predicates TEXT NOT NULL
) STRICT;

-- Installed releases that an administrator keeps although the keys that signed them were revoked.
CREATE TABLE trust_kept (
    sha256 TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;

-- Revoked for ever: kept when the publisher is removed, so that a key never comes back by way of another.
CREATE TABLE revoked_keys (
    kid TEXT PRIMARY KEY,
    publisher TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;
INSERT INTO revoked_keys (kid, publisher, reason, at)
    SELECT kid, publisher, reason, changed_at FROM publisher_keys WHERE state = 'revoked';

-- What was written over sets of rows that nobody but the host may change.
CREATE TABLE seals (
    name TEXT PRIMARY KEY,
    serial INTEGER NOT NULL,
    mac BLOB NOT NULL
) STRICT;
