-- Tokens carry a MAC that only the host's key makes: who can write the database alone cannot make a token.
-- Those that were made before are void; the next start makes a new administrator's token.
DROP TABLE tokens;
CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    hash BLOB NOT NULL UNIQUE,
    created_at REAL NOT NULL,
    expires_at REAL,
    mac BLOB NOT NULL
) STRICT;
DELETE FROM bootstrap;
