-- Configuration: documents of an account, its groups and its devices, every revision of them, and what each device was given and says.

-- `level` is `account` (with an empty name), `group` or `device`. Of the documents of groups, the one with the higher priority wins.
CREATE TABLE IF NOT EXISTS configurations (
    account  TEXT   NOT NULL REFERENCES accounts (name),
    level    TEXT   NOT NULL,
    name     TEXT   NOT NULL,
    priority BIGINT NOT NULL,
    document TEXT   NOT NULL,
    revision BIGINT NOT NULL,
    changed  BIGINT NOT NULL,
    PRIMARY KEY (account, level, name)
);

-- Every revision, the present one too.
CREATE TABLE IF NOT EXISTS configuration_revisions (
    account  TEXT   NOT NULL,
    level    TEXT   NOT NULL,
    name     TEXT   NOT NULL,
    revision BIGINT NOT NULL,
    priority BIGINT NOT NULL,
    document TEXT   NOT NULL,
    changed  BIGINT NOT NULL,
    PRIMARY KEY (account, level, name, revision),
    FOREIGN KEY (account, level, name) REFERENCES configurations (account, level, name) ON DELETE CASCADE
);

-- What a device was given. `generation` counts changes; `acknowledged` is the generation that it has taken. `said_…` is what it said
-- last, and `confirmed` the document that it said to be in force.
CREATE TABLE IF NOT EXISTS device_configurations (
    account          TEXT   NOT NULL,
    endpoint         TEXT   NOT NULL,
    generation       BIGINT NOT NULL,
    acknowledged     BIGINT NOT NULL DEFAULT 0,
    document         TEXT   NOT NULL,
    digest           TEXT   NOT NULL,
    changed          BIGINT NOT NULL,
    said_state       TEXT,
    said_generation  BIGINT,
    said_digest      TEXT,
    said_reason_code TEXT,
    said_reason_text TEXT,
    received         BIGINT,
    confirmed        TEXT,
    PRIMARY KEY (account, endpoint),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
);
