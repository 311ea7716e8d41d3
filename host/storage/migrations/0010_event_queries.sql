-- The log is asked by type, source or subject and a time: each index has the time behind it, so that a query costs
-- what it finds, however large the log is.
DROP INDEX events_by_type;
DROP INDEX events_by_source;
DROP INDEX events_by_subject;
CREATE INDEX events_by_type ON events (type, appended_at);
CREATE INDEX events_by_source ON events (source, appended_at);
CREATE INDEX events_by_subject ON events (subject, appended_at) WHERE subject IS NOT NULL;
