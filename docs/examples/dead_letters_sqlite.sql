CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY,
    failed_at TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    stage TEXT NOT NULL,
    reason TEXT NOT NULL,
    traceback TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    origin TEXT NOT NULL,
    content_type TEXT NOT NULL,
    body BLOB NOT NULL
);
