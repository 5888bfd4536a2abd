-- Groups, artifacts, signed metadata, releases, rollouts, and what each device should run and says.

CREATE TABLE IF NOT EXISTS device_groups (
    account  TEXT   NOT NULL REFERENCES accounts (name),
    name     TEXT   NOT NULL,
    title    TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

CREATE TABLE IF NOT EXISTS group_members (
    account  TEXT NOT NULL,
    name     TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    PRIMARY KEY (account, name, endpoint),
    FOREIGN KEY (account, name) REFERENCES device_groups (account, name) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS group_members_by_endpoint ON group_members (account, endpoint);

-- `received` counts bytes that are known to be on disk; `complete` is set once the digest was checked.
CREATE TABLE IF NOT EXISTS artifacts (
    account  TEXT   NOT NULL REFERENCES accounts (name),
    digest   TEXT   NOT NULL,
    size     BIGINT NOT NULL,
    received BIGINT NOT NULL DEFAULT 0,
    complete BIGINT NOT NULL DEFAULT 0,
    created  BIGINT NOT NULL,
    PRIMARY KEY (account, digest)
);

-- The online keys of an account's repository; the private halves sign only snapshot and timestamp.
CREATE TABLE IF NOT EXISTS online_keys (
    account TEXT   NOT NULL REFERENCES accounts (name),
    role    TEXT   NOT NULL,
    pkcs8   BLOB   NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (account, role)
);

-- TUF metadata under the names that devices ask for: `3.root.json`, `timestamp.json`.
CREATE TABLE IF NOT EXISTS metadata_files (
    account TEXT   NOT NULL REFERENCES accounts (name),
    name    TEXT   NOT NULL,
    role    TEXT   NOT NULL,
    version BIGINT NOT NULL,
    bytes   BLOB   NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);
CREATE INDEX IF NOT EXISTS metadata_files_by_role ON metadata_files (account, role, version);

CREATE TABLE IF NOT EXISTS repositories (
    account           TEXT   NOT NULL PRIMARY KEY REFERENCES accounts (name),
    root_version      BIGINT NOT NULL,
    targets_version   BIGINT NOT NULL,
    snapshot_version  BIGINT NOT NULL,
    timestamp_version BIGINT NOT NULL,
    timestamp_expires BIGINT NOT NULL,
    published         BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS releases (
    account          TEXT   NOT NULL REFERENCES accounts (name),
    version          TEXT   NOT NULL,
    path             TEXT   NOT NULL,
    digest           TEXT   NOT NULL,
    security_version BIGINT NOT NULL,
    document         TEXT   NOT NULL,
    listed           BIGINT NOT NULL,
    published        BIGINT NOT NULL,
    PRIMARY KEY (account, version)
);

CREATE TABLE IF NOT EXISTS rollouts (
    account         TEXT   NOT NULL REFERENCES accounts (name),
    id              TEXT   NOT NULL,
    number          BIGINT NOT NULL,
    name            TEXT   NOT NULL,
    version         TEXT   NOT NULL,
    path            TEXT   NOT NULL,
    digest          TEXT   NOT NULL,
    audience        TEXT   NOT NULL,
    threshold       TEXT   NOT NULL,
    max_in_flight   BIGINT,
    time_window     TEXT,
    state           TEXT   NOT NULL,
    reason_code     TEXT,
    reason_text     TEXT,
    created         BIGINT NOT NULL,
    started         BIGINT,
    start_order     BIGINT,
    changed         BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    PRIMARY KEY (account, id),
    FOREIGN KEY (account, version) REFERENCES releases (account, version)
);
CREATE INDEX IF NOT EXISTS rollouts_by_state ON rollouts (state, account, number);

CREATE TABLE IF NOT EXISTS rollout_devices (
    account     TEXT   NOT NULL,
    rollout     TEXT   NOT NULL,
    endpoint    TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    waiting_for TEXT,
    reason_code TEXT,
    reason_text TEXT,
    since       BIGINT NOT NULL,
    PRIMARY KEY (account, rollout, endpoint),
    FOREIGN KEY (account, rollout) REFERENCES rollouts (account, id)
);
CREATE INDEX IF NOT EXISTS rollout_devices_by_state ON rollout_devices (account, rollout, state);
CREATE INDEX IF NOT EXISTS rollout_devices_by_endpoint ON rollout_devices (account, endpoint);

-- What a device should run. `generation` counts changes; `acknowledged` is the generation that the device has taken.
CREATE TABLE IF NOT EXISTS desired_releases (
    account      TEXT   NOT NULL,
    endpoint     TEXT   NOT NULL,
    generation   BIGINT NOT NULL,
    acknowledged BIGINT NOT NULL DEFAULT 0,
    path         TEXT,
    digest       TEXT,
    rollout      TEXT,
    changed      BIGINT NOT NULL,
    PRIMARY KEY (account, endpoint)
);

-- The last thing that a device said about its software.
CREATE TABLE IF NOT EXISTS device_reports (
    account         TEXT   NOT NULL,
    endpoint        TEXT   NOT NULL,
    phase           TEXT   NOT NULL,
    reason_code     TEXT,
    reason_text     TEXT,
    progress        BIGINT,
    rollout         TEXT,
    digest          TEXT,
    running_version TEXT,
    running_digest  TEXT,
    slot            TEXT,
    floor           BIGINT NOT NULL,
    received        BIGINT NOT NULL,
    PRIMARY KEY (account, endpoint)
);
