-- Plugins whose data folder is to be removed: written with the end of their record, gone when the folder is out of reach.
CREATE TABLE purges (
    plugin TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
