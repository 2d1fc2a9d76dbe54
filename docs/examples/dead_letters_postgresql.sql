CREATE TABLE dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    failed_at timestamptz NOT NULL,
    pipeline text NOT NULL,
    stage text NOT NULL,
    reason text NOT NULL,
    traceback text NOT NULL,
    attempts integer NOT NULL,
    origin jsonb NOT NULL,
    content_type text NOT NULL,
    body bytea NOT NULL
);
