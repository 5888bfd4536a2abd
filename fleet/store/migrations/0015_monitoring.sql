-- Subscriptions: streams of events, each with a position of its own, and what could not be delivered.

-- Without `url` whoever reads acknowledges. `kinds` are separated by blanks; none and an empty filter let everything through.
-- `tries` counts those of the event after `position`, `failures` those in a row, whatever the event.
CREATE TABLE IF NOT EXISTS subscriptions (
    account       TEXT   NOT NULL REFERENCES accounts (name),
    name          TEXT   NOT NULL,
    title         TEXT   NOT NULL,
    kinds         TEXT   NOT NULL,
    filter        TEXT   NOT NULL,
    url           TEXT,
    secret        BLOB ,
    former_secret BLOB ,
    former_until  BIGINT NOT NULL DEFAULT 0,
    position      BIGINT NOT NULL,
    paused        TEXT,
    tries         BIGINT NOT NULL DEFAULT 0,
    failures      BIGINT NOT NULL DEFAULT 0,
    next_try      BIGINT NOT NULL DEFAULT 0,
    last_failure  TEXT,
    created       BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

-- Events that were tried as often as one is. `asked` is when somebody wanted it to be tried once more.
CREATE TABLE IF NOT EXISTS dead_letters (
    account      TEXT   NOT NULL,
    subscription TEXT   NOT NULL,
    event        BIGINT NOT NULL,
    tries        BIGINT NOT NULL,
    reason       TEXT   NOT NULL,
    since        BIGINT NOT NULL,
    asked        BIGINT,
    PRIMARY KEY (account, subscription, event),
    FOREIGN KEY (account, subscription) REFERENCES subscriptions (account, name) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dead_letters_asked ON dead_letters (account, subscription, event) WHERE asked IS NOT NULL;
