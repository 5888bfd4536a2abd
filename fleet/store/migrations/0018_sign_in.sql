-- Revisions of accounts and principals, letters that bring invitations, and signing in with an identity provider of the account's own.

ALTER TABLE accounts ADD COLUMN IF NOT EXISTS revision BIGINT NOT NULL DEFAULT 1;
ALTER TABLE principals ADD COLUMN IF NOT EXISTS revision BIGINT NOT NULL DEFAULT 1;

-- The letter with an invitation. `secret` is the secret of the invitation, sealed, and NULL once the letter has left or will not be
-- tried again: then `sent` says when it left, or `last_failure` why it did not.
CREATE TABLE IF NOT EXISTS invitation_letters (
    account      TEXT   NOT NULL,
    name         TEXT   NOT NULL,
    secret       TEXT,
    sent         BIGINT,
    tries        BIGINT NOT NULL DEFAULT 0,
    next_try     BIGINT NOT NULL,
    last_failure TEXT,
    PRIMARY KEY (account, name),
    FOREIGN KEY (account, name) REFERENCES invitations (account, name) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS invitation_letters_due ON invitation_letters (next_try) WHERE secret IS NOT NULL;

-- With whom the users of an account sign in. `secret` is the client secret, sealed. `scopes` and `domains` are separated by blanks,
-- `roles` is a JSON object from values of the claim `role_claim` to roles. While `required` is not 0, only the user `break_glass` signs
-- in with a password.
CREATE TABLE IF NOT EXISTS identity_providers (
    account      TEXT   NOT NULL PRIMARY KEY REFERENCES accounts (name),
    issuer       TEXT   NOT NULL,
    client_id    TEXT   NOT NULL,
    secret       TEXT,
    scopes       TEXT   NOT NULL,
    user_claim   TEXT   NOT NULL,
    domains      TEXT   NOT NULL,
    role_claim   TEXT,
    roles        TEXT   NOT NULL,
    create_users BIGINT NOT NULL,
    default_role TEXT,
    required     BIGINT NOT NULL,
    break_glass  TEXT,
    changed      BIGINT NOT NULL,
    revision     BIGINT NOT NULL
);

-- Who a user is to the provider: found by claims at the first sign-in, by `subject` from then on.
CREATE TABLE IF NOT EXISTS user_identities (
    account TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    issuer  TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    linked  BIGINT NOT NULL,
    PRIMARY KEY (account, name),
    UNIQUE (account, issuer, subject),
    FOREIGN KEY (account, name) REFERENCES users (account, name) ON DELETE CASCADE
);

-- Roles that the claims of a user brought. They change with the claims; those that a person gave do not.
ALTER TABLE role_bindings ADD COLUMN IF NOT EXISTS by_provider BIGINT NOT NULL DEFAULT 0;

-- Sign-ins under way. `id` is the SHA-256 of the state that goes through the browser; `sealed` holds nonce and PKCE verifier towards the
-- provider, `challenge` is that of whoever began. `returned` is when the browser came back, `code` the SHA-256 of the one-time code that
-- `name` was shown then.
CREATE TABLE IF NOT EXISTS single_sign_ons (
    id            TEXT   NOT NULL PRIMARY KEY,
    account       TEXT   NOT NULL REFERENCES accounts (name),
    sealed        TEXT   NOT NULL,
    challenge     TEXT   NOT NULL,
    port          BIGINT,
    scopes        TEXT   NOT NULL,
    created       BIGINT NOT NULL,
    expires       BIGINT NOT NULL,
    returned      BIGINT,
    code          TEXT,
    name          TEXT,
    second_factor BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS single_sign_ons_by_account ON single_sign_ons (account, expires);
