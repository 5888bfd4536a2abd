-- What operators say of a device, what devices are found by, and groups that are filters.

-- `number` is there if the attribute is one; `value` then is its text.
CREATE TABLE IF NOT EXISTS device_attributes (
    account  TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    key      TEXT NOT NULL,
    value    TEXT NOT NULL,
    number   DOUBLE PRECISION,
    PRIMARY KEY (account, endpoint, key),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS device_attributes_by_value ON device_attributes (account, key, value, endpoint);
CREATE INDEX IF NOT EXISTS device_attributes_by_number ON device_attributes (account, key, number, endpoint);

CREATE TABLE IF NOT EXISTS device_tags (
    account  TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    tag      TEXT NOT NULL,
    PRIMARY KEY (account, endpoint, tag),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS device_tags_by_tag ON device_tags (account, tag, endpoint);

-- `revision` counts what operators change of a device.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS note TEXT NOT NULL DEFAULT '';
ALTER TABLE devices ADD COLUMN IF NOT EXISTS revision BIGINT NOT NULL DEFAULT 1;

-- Keys have the order of the versions beside which they stand. Texts that are no version have none.
ALTER TABLE device_components ADD COLUMN IF NOT EXISTS version_key TEXT;
CREATE INDEX IF NOT EXISTS device_components_by_version ON device_components (account, name, version_key, endpoint);
ALTER TABLE device_reports ADD COLUMN IF NOT EXISTS running_version_key TEXT;

-- A device is in a group if it is a listed member, if the group's filter says so, or if it is in a group that this one includes.
ALTER TABLE device_groups ADD COLUMN IF NOT EXISTS filter TEXT;
CREATE TABLE IF NOT EXISTS group_includes (
    account  TEXT NOT NULL,
    name     TEXT NOT NULL,
    included TEXT NOT NULL,
    PRIMARY KEY (account, name, included),
    FOREIGN KEY (account, name) REFERENCES device_groups (account, name) ON DELETE CASCADE,
    FOREIGN KEY (account, included) REFERENCES device_groups (account, name)
);

CREATE TABLE IF NOT EXISTS saved_filters (
    account  TEXT   NOT NULL REFERENCES accounts (name),
    name     TEXT   NOT NULL,
    title    TEXT   NOT NULL,
    filter   TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);
