-- The device directory: identity, standing and presence.

CREATE TABLE IF NOT EXISTS devices (
    account   TEXT   NOT NULL REFERENCES accounts (name),
    endpoint  TEXT   NOT NULL,
    standing  TEXT   NOT NULL DEFAULT 'active',
    connected BIGINT NOT NULL DEFAULT 0,
    last_seen BIGINT,
    created   BIGINT NOT NULL,
    PRIMARY KEY (account, endpoint)
);
