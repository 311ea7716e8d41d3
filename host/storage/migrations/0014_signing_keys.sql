-- Which key signed a release, and when this host recorded it: by these a publisher's sequence may start anew
-- after the key was replaced. Empty for what was installed before keys were recorded.
ALTER TABLE plugins ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE plugin_history ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE plugin_history ADD COLUMN recorded_at REAL NOT NULL DEFAULT 0;
