-- One row: the answers of the last transaction of the log's writer, and the life of the host that they are for. A writer
-- that is started anew says by them which of the frames that were not answered are durable.
CREATE TABLE log_frames (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    life BLOB NOT NULL,
    answers BLOB NOT NULL
) STRICT;
INSERT INTO log_frames (one, life, answers) VALUES (1, x'', x'90');
