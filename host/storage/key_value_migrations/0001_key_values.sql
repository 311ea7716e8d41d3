-- The keys and values of plugins, and what those of each take, in bytes.
CREATE TABLE kv (
    plugin TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (plugin, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE kv_usage (
    plugin TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT;

-- One row: how often the host was started on this file. An older copy has fewer than the host remembers.
CREATE TABLE starts (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL
) STRICT;
INSERT INTO starts (one, number) VALUES (1, 0);
