-- `seen`: up to where instants were dealt with. `dispatch_at`: when the next one is to be dispatched, null while nothing
-- is to fire. `queued_due`: an instant that waits for an earlier firing. `adopted_at`: when its plugin came to run.
-- `error`: why the rule cannot be evaluated.
ALTER TABLE schedules ADD COLUMN seen REAL;
ALTER TABLE schedules ADD COLUMN dispatch_at REAL;
ALTER TABLE schedules ADD COLUMN queued_due REAL;
ALTER TABLE schedules ADD COLUMN adopted_at REAL;
ALTER TABLE schedules ADD COLUMN error TEXT NOT NULL DEFAULT '';
UPDATE schedules SET dispatch_at = next_due WHERE active = 1 AND paused = 0;
CREATE INDEX schedules_by_dispatch ON schedules (dispatch_at) WHERE dispatch_at IS NOT NULL;
CREATE INDEX schedules_by_queue ON schedules (id) WHERE queued_due IS NOT NULL;

-- Instants that did not fire stand here, too: `count` of them from `due` to `last_due`, with the reason. `fired_at` is
-- when that was decided. `open`: its delivery was not settled when last looked at.
ALTER TABLE firings ADD COLUMN outcome TEXT NOT NULL DEFAULT 'fired' CHECK (outcome IN ('fired', 'skipped'));
ALTER TABLE firings ADD COLUMN reason TEXT NOT NULL DEFAULT '';
ALTER TABLE firings ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
ALTER TABLE firings ADD COLUMN lateness REAL NOT NULL DEFAULT 0;
ALTER TABLE firings ADD COLUMN last_due TEXT;
ALTER TABLE firings ADD COLUMN sequence INTEGER;
ALTER TABLE firings ADD COLUMN open INTEGER NOT NULL DEFAULT 0 CHECK (open IN (0, 1));
UPDATE firings SET lateness = max(0, round(fired_at - (julianday(due) - 2440587.5) * 86400.0, 3)) WHERE by_hand = 0;
UPDATE firings SET reason = 'by hand' WHERE by_hand = 1;
CREATE INDEX firings_open ON firings (schedule, number) WHERE open = 1;
