-- Who may do what: the tree of accounts, principals, roles that are bound to them, policies, and the log of what was done.

ALTER TABLE accounts ADD COLUMN IF NOT EXISTS parent TEXT;
CREATE INDEX IF NOT EXISTS accounts_by_parent ON accounts (parent, name);

-- Whose token it is, as in `service/ci`; empty for a token of the account itself.
ALTER TABLE tokens ADD COLUMN IF NOT EXISTS principal TEXT NOT NULL DEFAULT '';
CREATE INDEX IF NOT EXISTS tokens_by_principal ON tokens (account, principal);

-- Who can hold roles: `kind` is `user` or `service`. `disabled` is when somebody took away the right to act.
CREATE TABLE IF NOT EXISTS principals (
    account  TEXT   NOT NULL REFERENCES accounts (name),
    kind     TEXT   NOT NULL,
    name     TEXT   NOT NULL,
    title    TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    disabled BIGINT,
    PRIMARY KEY (account, kind, name)
);

-- A role of a principal of this account or of one above it; with a filter, for the devices that it is true for.
CREATE TABLE IF NOT EXISTS role_bindings (
    account TEXT   NOT NULL REFERENCES accounts (name),
    id      TEXT   NOT NULL,
    number  BIGINT NOT NULL,
    home    TEXT   NOT NULL REFERENCES accounts (name),
    kind    TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    role    TEXT   NOT NULL,
    filter  TEXT,
    created BIGINT NOT NULL,
    PRIMARY KEY (account, id),
    FOREIGN KEY (home, kind, name) REFERENCES principals (account, kind, name) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS role_bindings_by_principal ON role_bindings (home, kind, name);

-- Cedar policies that an account adds to those of the service.
CREATE TABLE IF NOT EXISTS access_policies (
    account  TEXT   NOT NULL REFERENCES accounts (name),
    name     TEXT   NOT NULL,
    policy   TEXT   NOT NULL,
    created  BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    PRIMARY KEY (account, name)
);

-- Append-only. `entry` is the exact text whose SHA-256 is `hash`; it names the hash of the entry before it.
CREATE TABLE IF NOT EXISTS audit_entries (
    account TEXT   NOT NULL REFERENCES accounts (name),
    number  BIGINT NOT NULL,
    entry   TEXT   NOT NULL,
    hash    TEXT   NOT NULL,
    PRIMARY KEY (account, number)
);
