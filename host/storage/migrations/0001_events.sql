-- The event log. `sequence` is given by the writer in commit order and never used twice.
-- `appended_at` is in microseconds since the epoch.
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    subject TEXT,
    appended_at INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- `id` first: an event is looked up by its id alone, and sources are few.
CREATE UNIQUE INDEX events_by_identity ON events (id, source);
CREATE INDEX events_by_source ON events (source);
CREATE INDEX events_by_type ON events (type);
CREATE INDEX events_by_subject ON events (subject) WHERE subject IS NOT NULL;
CREATE INDEX events_by_time ON events (appended_at);

-- One row: the highest sequence ever given, so that it survives the pruning of the newest events.
CREATE TABLE log_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL
) STRICT;
INSERT INTO log_head (one, sequence) VALUES (1, 0);
