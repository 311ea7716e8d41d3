-- The trust store: publishers and their keys.
CREATE TABLE publishers (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    plugins TEXT NOT NULL,
    max_isolation TEXT NOT NULL CHECK (max_isolation IN ('process', 'inline')),
    contact TEXT NOT NULL,
    added_at REAL NOT NULL
) STRICT;

CREATE TABLE publisher_keys (
    publisher TEXT NOT NULL REFERENCES publishers (id) ON DELETE CASCADE,
    kid TEXT NOT NULL,
    public TEXT NOT NULL,
    not_before REAL,
    not_after REAL,
    state TEXT NOT NULL CHECK (state IN ('active', 'retired', 'revoked')),
    reason TEXT NOT NULL,
    changed_at REAL NOT NULL,
    PRIMARY KEY (publisher, kid)
) STRICT;
