-- Accounts, who may act in them, what happened in them. Every later table starts with the account.

CREATE TABLE IF NOT EXISTS accounts (
    name       TEXT   NOT NULL PRIMARY KEY,
    title      TEXT   NOT NULL,
    created    BIGINT NOT NULL,
    last_event BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE IF NOT EXISTS tokens (
    account   TEXT   NOT NULL REFERENCES accounts (name),
    id        TEXT   NOT NULL,
    name      TEXT   NOT NULL,
    hash      TEXT   NOT NULL UNIQUE,
    scopes    TEXT   NOT NULL,
    created   BIGINT NOT NULL,
    expires   BIGINT,
    last_used BIGINT,
    revoked   BIGINT,
    is_first  BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (account, id)
);

-- Numbers that the service gives out one after the other inside an account.
CREATE TABLE IF NOT EXISTS counters (
    account TEXT   NOT NULL REFERENCES accounts (name),
    name    TEXT   NOT NULL,
    value   BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

CREATE TABLE IF NOT EXISTS events (
    account TEXT   NOT NULL REFERENCES accounts (name),
    id      BIGINT NOT NULL,
    time    BIGINT NOT NULL,
    kind    TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    data    TEXT   NOT NULL,
    PRIMARY KEY (account, id)
);

-- What a request with an Idempotency-Key has made, so that its repetition makes nothing more.
CREATE TABLE IF NOT EXISTS idempotency_keys (
    account  TEXT   NOT NULL REFERENCES accounts (name),
    key      TEXT   NOT NULL,
    request  TEXT   NOT NULL,
    resource TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX IF NOT EXISTS idempotency_keys_by_age ON idempotency_keys (created);

