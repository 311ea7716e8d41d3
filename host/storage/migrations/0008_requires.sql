-- What a plugin requires of other plugins, from its manifest: a JSON array of PEP 508 requirements.
ALTER TABLE plugins ADD COLUMN requires TEXT NOT NULL DEFAULT '[]';
