-- The release that is to take over, the one that was there before, until when the new one is on probation,
-- and how the last upgrade went.
ALTER TABLE plugins ADD COLUMN candidate BLOB;
ALTER TABLE plugins ADD COLUMN previous BLOB;
ALTER TABLE plugins ADD COLUMN probation_until REAL;
ALTER TABLE plugins ADD COLUMN last_upgrade BLOB;
