"""SQLite for all that the host keeps: migrations, readers, the group-commit writer; the keyring for secrets."""
