-- Users: what a person signs in with, with what they begin, and who fails to sign in. Quotas of accounts.

-- `password` is an Argon2id hash in the PHC form, `totp` the secret of the authenticator, sealed with a key that lies outside of the
-- database; both are NULL as long as the user has only an invitation. `totp_step` is the newest time step whose code was taken.
CREATE TABLE IF NOT EXISTS users (
    account      TEXT   NOT NULL,
    kind         TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    email        TEXT   NOT NULL,
    password     TEXT,
    password_set BIGINT,
    totp         TEXT,
    totp_step    BIGINT NOT NULL DEFAULT 0,
    last_sign_in BIGINT,
    PRIMARY KEY (account, name),
    FOREIGN KEY (account, kind, name) REFERENCES principals (account, kind, name) ON DELETE CASCADE
);

-- Codes that each stand once for the authenticator.
CREATE TABLE IF NOT EXISTS recovery_codes (
    account TEXT NOT NULL,
    name    TEXT NOT NULL,
    hash    TEXT NOT NULL,
    PRIMARY KEY (account, name, hash),
    FOREIGN KEY (account, name) REFERENCES users (account, name) ON DELETE CASCADE
);

-- The one-time secret with which a user sets password and authenticator; `totp` is what the authenticator will hold.
CREATE TABLE IF NOT EXISTS invitations (
    account TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    hash    TEXT   NOT NULL UNIQUE,
    totp    TEXT   NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (account, name),
    FOREIGN KEY (account, name) REFERENCES users (account, name) ON DELETE CASCADE
);

-- Tries to sign in since the last one that succeeded. `subject` is a digest over account and name, whether or not there is such a user.
CREATE TABLE IF NOT EXISTS sign_in_tries (
    subject      TEXT   NOT NULL PRIMARY KEY,
    tries        BIGINT NOT NULL,
    last         BIGINT NOT NULL,
    locked_until BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS sign_in_tries_by_age ON sign_in_tries (last);

-- Whether a person showed a second factor for the token: then it is a session.
ALTER TABLE tokens ADD COLUMN IF NOT EXISTS second_factor BIGINT NOT NULL DEFAULT 0;

-- How much of something an account and those below it may have together.
CREATE TABLE IF NOT EXISTS quotas (
    account TEXT   NOT NULL REFERENCES accounts (name),
    kind    TEXT   NOT NULL,
    most    BIGINT NOT NULL,
    PRIMARY KEY (account, kind)
);
