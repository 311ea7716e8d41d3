-- The index that a plugin is bound to, and what that index has shown of it before.
ALTER TABLE plugins ADD COLUMN origin BLOB;
