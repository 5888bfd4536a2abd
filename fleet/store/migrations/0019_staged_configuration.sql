-- Rollouts of configuration: a revision of a document that is not in force, and the devices that it was released to.

-- Either `version` and `path` name a release, or `level`, `level_name` and `level_revision` a revision of a document. A column that may
-- be empty cannot be had of one that may not, so both tables are made anew.
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS level TEXT;
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS level_name TEXT;
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS level_revision BIGINT;
-- `released` is the try with which the revision was released to the device, `generation` the settings of the device that had it first,
-- `refused` why they cannot be given to it.
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS released BIGINT;
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS generation BIGINT;
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS refused TEXT;

CREATE TABLE IF NOT EXISTS rollouts_next (
    account        TEXT   NOT NULL REFERENCES accounts (name),
    id             TEXT   NOT NULL,
    number         BIGINT NOT NULL,
    name           TEXT   NOT NULL,
    version        TEXT,
    path           TEXT,
    level          TEXT,
    level_name     TEXT,
    level_revision BIGINT,
    digest         TEXT   NOT NULL,
    audience       TEXT   NOT NULL,
    threshold      TEXT   NOT NULL,
    max_in_flight  BIGINT,
    time_window    TEXT,
    state          TEXT   NOT NULL,
    reason_code    TEXT,
    reason_text    TEXT,
    created        BIGINT NOT NULL,
    started        BIGINT,
    start_order    BIGINT,
    changed        BIGINT NOT NULL,
    revision       BIGINT NOT NULL,
    consent        TEXT   NOT NULL DEFAULT 'automatic',
    policy         TEXT   NOT NULL DEFAULT '{}',
    priority       BIGINT NOT NULL DEFAULT 50,
    on_failure     TEXT   NOT NULL DEFAULT 'stop',
    wave           BIGINT NOT NULL DEFAULT 0,
    closed         BIGINT NOT NULL DEFAULT 0,
    excused        BIGINT NOT NULL DEFAULT 0,
    started_by     TEXT,
    approved_by    TEXT,
    brings_back    TEXT,
    PRIMARY KEY (account, id),
    FOREIGN KEY (account, version) REFERENCES releases (account, version)
);
INSERT INTO rollouts_next (account, id, number, name, version, path, level, level_name, level_revision, digest, audience, threshold,
    max_in_flight, time_window, state, reason_code, reason_text, created, started, start_order, changed, revision, consent, policy,
    priority, on_failure, wave, closed, excused, started_by, approved_by, brings_back)
SELECT account, id, number, name, version, path, level, level_name, level_revision, digest, audience, threshold,
    max_in_flight, time_window, state, reason_code, reason_text, created, started, start_order, changed, revision, consent, policy,
    priority, on_failure, wave, closed, excused, started_by, approved_by, brings_back FROM rollouts;

CREATE TABLE IF NOT EXISTS rollout_devices_next (
    account     TEXT   NOT NULL,
    rollout     TEXT   NOT NULL,
    endpoint    TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    waiting_for TEXT,
    reason_code TEXT,
    reason_text TEXT,
    since       BIGINT NOT NULL,
    consented   BIGINT,
    wave        BIGINT,
    attempt     BIGINT NOT NULL DEFAULT 1,
    failed      BIGINT NOT NULL DEFAULT 0,
    not_before  BIGINT,
    offered     BIGINT,
    previous    TEXT,
    returned    TEXT,
    released    BIGINT,
    generation  BIGINT,
    refused     TEXT,
    PRIMARY KEY (account, rollout, endpoint),
    FOREIGN KEY (account, rollout) REFERENCES rollouts_next (account, id)
);
INSERT INTO rollout_devices_next (account, rollout, endpoint, state, waiting_for, reason_code, reason_text, since, consented, wave,
    attempt, failed, not_before, offered, previous, returned, released, generation, refused)
SELECT account, rollout, endpoint, state, waiting_for, reason_code, reason_text, since, consented, wave,
    attempt, failed, not_before, offered, previous, returned, released, generation, refused FROM rollout_devices;

DROP TABLE rollout_devices;
DROP TABLE rollouts;
ALTER TABLE rollouts_next RENAME TO rollouts;
ALTER TABLE rollout_devices_next RENAME TO rollout_devices;

CREATE INDEX IF NOT EXISTS rollouts_by_state ON rollouts (state, account, number);
CREATE INDEX IF NOT EXISTS rollout_devices_by_state ON rollout_devices (account, rollout, state);
CREATE INDEX IF NOT EXISTS rollout_devices_by_endpoint ON rollout_devices (account, endpoint);
CREATE INDEX IF NOT EXISTS rollout_devices_by_offer ON rollout_devices (account, rollout, offered);
CREATE INDEX IF NOT EXISTS rollout_devices_by_wave ON rollout_devices (account, rollout, wave, state);

-- Secrets of applications by level, sealed with a key that is not in the database. `version` counts values.
CREATE TABLE IF NOT EXISTS configuration_secrets (
    account     TEXT   NOT NULL REFERENCES accounts (name),
    level       TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    application TEXT   NOT NULL,
    secret      TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    sealed      TEXT   NOT NULL,
    changed     BIGINT NOT NULL,
    PRIMARY KEY (account, level, name, application, secret)
);

-- The public key to which secrets of a device are sealed, as it says itself.
CREATE TABLE IF NOT EXISTS device_sealing_keys (
    account  TEXT   NOT NULL,
    endpoint TEXT   NOT NULL,
    key      TEXT   NOT NULL,
    received BIGINT NOT NULL,
    PRIMARY KEY (account, endpoint),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
);

-- What was sealed to a device, so that the same secret is the same text each time. `source` is the level and name that it comes from.
CREATE TABLE IF NOT EXISTS device_secrets (
    account     TEXT   NOT NULL,
    endpoint    TEXT   NOT NULL,
    application TEXT   NOT NULL,
    secret      TEXT   NOT NULL,
    source      TEXT   NOT NULL,
    version     BIGINT NOT NULL,
    recipient   TEXT   NOT NULL,
    sealed      TEXT   NOT NULL,
    PRIMARY KEY (account, endpoint, application, secret),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
);
