-- Who may join, who has joined, by which certificates, and what is installed there.

-- Factory authorities. The fingerprint is the SHA-256 of the certificate, so that none stands here twice.
CREATE TABLE IF NOT EXISTS authorities (
    account     TEXT   NOT NULL REFERENCES accounts (name),
    id          TEXT   NOT NULL,
    number      BIGINT NOT NULL,
    name        TEXT   NOT NULL,
    subject     TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    certificate BLOB   NOT NULL,
    not_after   BIGINT NOT NULL,
    created     BIGINT NOT NULL,
    revoked     BIGINT,
    PRIMARY KEY (account, id),
    UNIQUE (account, fingerprint)
);

-- Without an endpoint any, without an authority any: at least one of the two is there.
CREATE TABLE IF NOT EXISTS enrolments (
    account   TEXT   NOT NULL REFERENCES accounts (name),
    id        TEXT   NOT NULL,
    number    BIGINT NOT NULL,
    endpoint  TEXT,
    authority TEXT,
    created   BIGINT NOT NULL,
    PRIMARY KEY (account, id),
    FOREIGN KEY (account, authority) REFERENCES authorities (account, id),
    CHECK (endpoint IS NOT NULL OR authority IS NOT NULL)
);
CREATE INDEX IF NOT EXISTS enrolments_by_endpoint ON enrolments (account, endpoint);
CREATE INDEX IF NOT EXISTS enrolments_by_authority ON enrolments (account, authority);

-- Devices that proved who they are and were turned away; `attempts` counts, so that a persistent one fills no table.
CREATE TABLE IF NOT EXISTS denials (
    account    TEXT   NOT NULL REFERENCES accounts (name),
    endpoint   TEXT   NOT NULL,
    reason     TEXT   NOT NULL,
    first_time BIGINT NOT NULL,
    last_time  BIGINT NOT NULL,
    attempts   BIGINT NOT NULL,
    PRIMARY KEY (account, endpoint, reason)
);
CREATE INDEX IF NOT EXISTS denials_by_time ON denials (account, last_time);

-- The device directory: identity, standing and presence. `session` is the connection that made the device connected, so that
-- the end of an older connection does not end the newer one.
CREATE TABLE IF NOT EXISTS devices (
    account          TEXT   NOT NULL REFERENCES accounts (name),
    endpoint         TEXT   NOT NULL,
    standing         TEXT   NOT NULL DEFAULT 'active',
    standing_reason  TEXT,
    authority        TEXT   NOT NULL DEFAULT '',
    factory_serial   TEXT   NOT NULL DEFAULT '',
    connected        BIGINT NOT NULL DEFAULT 0,
    session          BIGINT NOT NULL DEFAULT 0,
    last_seen        BIGINT,
    created          BIGINT NOT NULL,
    manufacturer     TEXT,
    model            TEXT,
    serial_number    TEXT,
    firmware_version TEXT,
    PRIMARY KEY (account, endpoint)
);
CREATE INDEX IF NOT EXISTS devices_connected ON devices (connected);

-- `number` counts the certificates of a device; a device that used one never goes back to a lower one.
CREATE TABLE IF NOT EXISTS device_certificates (
    account      TEXT   NOT NULL,
    endpoint     TEXT   NOT NULL,
    serial       TEXT   NOT NULL,
    number       BIGINT NOT NULL,
    parent       TEXT   NOT NULL,
    from_factory BIGINT NOT NULL,
    issued       BIGINT NOT NULL,
    not_after    BIGINT NOT NULL,
    first_used   BIGINT,
    PRIMARY KEY (account, endpoint, serial),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
);

CREATE TABLE IF NOT EXISTS device_components (
    account  TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    name     TEXT NOT NULL,
    version  TEXT NOT NULL,
    digest   TEXT NOT NULL,
    state    TEXT,
    PRIMARY KEY (account, endpoint, name),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
);
