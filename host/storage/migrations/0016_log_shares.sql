-- What the events of each plugin weigh that are in the log: those that it emitted, and those that its webhooks brought.
-- Written in the transactions that append and remove them, so that a start need not add them all up again.
CREATE TABLE log_shares (
    plugin TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO log_shares (plugin, bytes)
    SELECT CASE WHEN source LIKE '/hooks/%' THEN substr(source, 8, instr(substr(source, 8) || '/', '/') - 1)
                ELSE substr(source, 10) END AS plugin,
           sum(length(body) + 2 * (length(CAST(id AS BLOB)) + length(CAST(type AS BLOB))
               + coalesce(length(CAST(subject AS BLOB)), 0)) + 400)
    FROM events
    WHERE (source >= '/plugins/' AND source < '/plugins0') OR (source >= '/hooks/' AND source < '/hooks0')
    GROUP BY plugin;
