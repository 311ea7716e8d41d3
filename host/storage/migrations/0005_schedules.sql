-- Schedules of plugins and when each comes due next; `active` while the plugin runs, `paused` by a person.
CREATE TABLE schedules (
    id TEXT PRIMARY KEY,
    plugin TEXT NOT NULL,
    name TEXT NOT NULL,
    rule TEXT NOT NULL,
    anchor REAL NOT NULL,
    next_due REAL,
    active INTEGER NOT NULL CHECK (active IN (0, 1)),
    paused INTEGER NOT NULL CHECK (paused IN (0, 1)),
    last_due REAL,
    last_fired REAL
) STRICT;
CREATE INDEX schedules_by_plugin ON schedules (plugin);

CREATE TABLE firings (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    schedule TEXT NOT NULL,
    due TEXT NOT NULL,
    fired_at REAL NOT NULL,
    event_id TEXT NOT NULL,
    by_hand INTEGER NOT NULL CHECK (by_hand IN (0, 1))
) STRICT;
CREATE INDEX firings_by_schedule ON firings (schedule, number);
