-- The desired state: which plugins, which release, enabled or not, config and grants.
CREATE TABLE plugins (
    id TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    version TEXT NOT NULL,
    publisher TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    title TEXT NOT NULL,
    description BLOB NOT NULL,
    requested TEXT NOT NULL,
    granted TEXT NOT NULL,
    config TEXT NOT NULL,
    secrets BLOB NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    generation INTEGER NOT NULL,
    config_revision INTEGER NOT NULL,
    breaker TEXT NOT NULL,
    installed_at REAL NOT NULL,
    changed_at REAL NOT NULL
) STRICT;

-- What a plugin id has been, kept after an uninstall: no older version and no other publisher comes silently.
CREATE TABLE plugin_history (
    id TEXT PRIMARY KEY,
    version TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    publisher TEXT NOT NULL,
    sequence INTEGER NOT NULL
) STRICT;

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
