"""SQLite for everything the host keeps: migrations, read connections, the group-commit writer, the keyring."""
