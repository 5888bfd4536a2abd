-- Commands for devices: one at a time and in order for each device, kept until the device has answered or the deadline has come.

-- The number of the account's newest command and job; numbers are never given twice, also when old ones are forgotten.
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS last_command BIGINT NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN IF NOT EXISTS last_job BIGINT NOT NULL DEFAULT 0;

-- The same to many devices, by one command each. `position` is the name of the last device that has its command; it moves in the
-- transaction that makes them. `ended` is set once every command has ended.
CREATE TABLE IF NOT EXISTS jobs (
    account     TEXT   NOT NULL REFERENCES accounts (name),
    number      BIGINT NOT NULL,
    kind        TEXT   NOT NULL,
    filter      TEXT   NOT NULL,
    request     TEXT   NOT NULL,
    concurrency BIGINT NOT NULL,
    per_minute  BIGINT NOT NULL,
    state       TEXT   NOT NULL,
    position    TEXT   NOT NULL DEFAULT '',
    created     BIGINT NOT NULL,
    deadline    BIGINT NOT NULL,
    started     BIGINT,
    ended       BIGINT,
    PRIMARY KEY (account, number)
);
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (account, number) WHERE ended IS NULL;

-- `session` is the connection on which it was sent, `tries` how often. A command that is `held` waits for its turn within its job, and
-- `admitted` is when that came. `deadline` is when it expires, and when an observation ends.
CREATE TABLE IF NOT EXISTS commands (
    account       TEXT   NOT NULL,
    number        BIGINT NOT NULL,
    endpoint      TEXT   NOT NULL,
    job           BIGINT,
    kind          TEXT   NOT NULL,
    path          TEXT   NOT NULL,
    argument      TEXT,
    state         TEXT   NOT NULL,
    held          BIGINT NOT NULL DEFAULT 0,
    admitted      BIGINT,
    session       BIGINT,
    tries         BIGINT NOT NULL DEFAULT 0,
    created       BIGINT NOT NULL,
    deadline      BIGINT NOT NULL,
    sent          BIGINT,
    ended         BIGINT,
    result        TEXT,
    reason_code   TEXT,
    reason_text   TEXT,
    PRIMARY KEY (account, number),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE,
    FOREIGN KEY (account, job) REFERENCES jobs (account, number) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS commands_of_device ON commands (account, endpoint, number);
CREATE INDEX IF NOT EXISTS commands_open ON commands (account, endpoint, number) WHERE ended IS NULL;
CREATE INDEX IF NOT EXISTS commands_due ON commands (deadline) WHERE ended IS NULL;
CREATE INDEX IF NOT EXISTS commands_under_way ON commands (account, number) WHERE state IN ('sent', 'active');
CREATE INDEX IF NOT EXISTS commands_of_job ON commands (account, job, number);
CREATE INDEX IF NOT EXISTS commands_ended ON commands (ended);

-- What an observation has brought: the newest values alone.
CREATE TABLE IF NOT EXISTS command_values (
    account TEXT   NOT NULL,
    command BIGINT NOT NULL,
    number  BIGINT NOT NULL,
    time    BIGINT NOT NULL,
    value   TEXT   NOT NULL,
    PRIMARY KEY (account, command, number),
    FOREIGN KEY (account, command) REFERENCES commands (account, number) ON DELETE CASCADE
);
