-- Whether the log keeps for a cursor what it has not passed; where not, pruning may move it on.
ALTER TABLE cursors ADD COLUMN holds INTEGER NOT NULL DEFAULT 1 CHECK (holds IN (0, 1));

-- The failed attempts so far, a JSON array; a dead letter takes it along.
ALTER TABLE retries ADD COLUMN history TEXT NOT NULL DEFAULT '[]';
ALTER TABLE dead_letters ADD COLUMN history TEXT NOT NULL DEFAULT '[]';

-- Events delivered again to one plugin: sequences `first` to `last` that fit. Its cursors, retries and attempts are
-- kept under the subscription's id with `#` and the replay's id behind it.
CREATE TABLE replays (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    plugin TEXT NOT NULL,
    subscription TEXT,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    since REAL,
    until REAL,
    filters TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled')),
    actor TEXT NOT NULL,
    created_at REAL NOT NULL,
    ended_at REAL,
    delivered INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    dead_lettered INTEGER NOT NULL DEFAULT 0,
    retried INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX replays_by_plugin ON replays (plugin, id);

-- Delivery policies of subscriptions that an administrator overrides: a JSON object, by subscription name.
ALTER TABLE plugins ADD COLUMN policies TEXT NOT NULL DEFAULT '{}';
