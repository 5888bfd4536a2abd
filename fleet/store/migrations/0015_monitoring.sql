-- Streams of events, each with a position of its own, what could not be delivered, and alerts.

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

-- Rates of events are counted over some time.
CREATE INDEX IF NOT EXISTS events_by_time ON events (account, time);

-- What is to raise alerts. `condition` is JSON. `is_full` says that as many alerts are open as there may be.
CREATE TABLE IF NOT EXISTS alert_rules (
    account     TEXT   NOT NULL REFERENCES accounts (name),
    name        TEXT   NOT NULL,
    title       TEXT   NOT NULL,
    severity    TEXT   NOT NULL,
    filter      TEXT   NOT NULL,
    condition   TEXT   NOT NULL,
    for_s       BIGINT NOT NULL,
    clear_for_s BIGINT NOT NULL,
    remind_s    BIGINT NOT NULL,
    enabled     BIGINT NOT NULL,
    is_full     BIGINT NOT NULL DEFAULT 0,
    created     BIGINT NOT NULL,
    revision    BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

-- One row a rule and device (or, with an empty subject, the account) while the condition holds, and the ones that are over. `told` is
-- when an event last told of it; a silenced one has none.
CREATE TABLE IF NOT EXISTS alerts (
    account         TEXT   NOT NULL REFERENCES accounts (name),
    number          BIGINT NOT NULL,
    rule            TEXT   NOT NULL,
    subject         TEXT   NOT NULL,
    severity        TEXT   NOT NULL,
    state           TEXT   NOT NULL,
    since           BIGINT NOT NULL,
    raised          BIGINT,
    told            BIGINT,
    clear_since     BIGINT,
    resolved        BIGINT,
    acknowledged    BIGINT,
    acknowledged_by TEXT,
    note            TEXT,
    PRIMARY KEY (account, number)
);
CREATE UNIQUE INDEX IF NOT EXISTS alerts_open ON alerts (account, rule, subject) WHERE state <> 'resolved';

-- When alerts are not told of. An empty rule is every rule, an empty filter every device and the account itself.
CREATE TABLE IF NOT EXISTS silences (
    account TEXT   NOT NULL REFERENCES accounts (name),
    number  BIGINT NOT NULL,
    rule    TEXT   NOT NULL,
    filter  TEXT   NOT NULL,
    until   BIGINT NOT NULL,
    reason  TEXT   NOT NULL,
    made_by TEXT   NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (account, number)
);
