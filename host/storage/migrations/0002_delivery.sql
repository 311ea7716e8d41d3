-- Everything up to `position` that matched is settled or stands in `retries`.
CREATE TABLE cursors (
    subscription TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events settled above the cursor, because deliveries end out of order.
CREATE TABLE settled_ahead (
    subscription TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (subscription, sequence)
) STRICT, WITHOUT ROWID;

-- Deliveries that stepped aside. `body` is set where the event may be gone from the log (a dead letter's retry).
CREATE TABLE retries (
    subscription TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    due_at REAL NOT NULL,
    error TEXT NOT NULL,
    body BLOB,
    PRIMARY KEY (subscription, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX retries_by_due ON retries (subscription, due_at);

-- The attempt log, the newest rows kept.
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY,
    plugin TEXT NOT NULL,
    subscription TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    started_at REAL NOT NULL,
    duration REAL NOT NULL,
    error TEXT NOT NULL
) STRICT;
CREATE INDEX deliveries_by_plugin ON deliveries (plugin, number);

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    plugin TEXT NOT NULL,
    subscription TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    body BLOB NOT NULL,
    reason TEXT NOT NULL,
    traceback TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    at REAL NOT NULL
) STRICT;
CREATE INDEX dead_letters_by_plugin ON dead_letters (plugin, id);
