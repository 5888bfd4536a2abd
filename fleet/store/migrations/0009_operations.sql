-- Long operations, what they did row by row, and factory certificates that may join because a list names them.

-- `position` is where the work goes on. It moves in the transaction that writes what was done before it.
CREATE TABLE IF NOT EXISTS operations (
    account     TEXT   NOT NULL REFERENCES accounts (name),
    number      BIGINT NOT NULL,
    request     TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    total       BIGINT,
    done        BIGINT NOT NULL DEFAULT 0,
    unchanged   BIGINT NOT NULL DEFAULT 0,
    refused     BIGINT NOT NULL DEFAULT 0,
    position    TEXT   NOT NULL DEFAULT '',
    reason_code TEXT,
    reason_text TEXT,
    created     BIGINT NOT NULL,
    started     BIGINT,
    ended       BIGINT,
    PRIMARY KEY (account, number)
);
CREATE INDEX IF NOT EXISTS operations_by_end ON operations (ended, account, number);

CREATE TABLE IF NOT EXISTS operation_rows (
    account   TEXT   NOT NULL,
    operation BIGINT NOT NULL,
    line      BIGINT NOT NULL,
    subject   TEXT,
    outcome   TEXT   NOT NULL,
    code      TEXT,
    detail    TEXT,
    PRIMARY KEY (account, operation, line),
    FOREIGN KEY (account, operation) REFERENCES operations (account, number) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS operation_rows_refused ON operation_rows (account, operation, line) WHERE outcome = 'refused';

-- The fingerprint is the SHA-256 of a factory certificate. `labels` are given to the device when it joins, `joined` is when it did.
CREATE TABLE IF NOT EXISTS listed_certificates (
    account     TEXT   NOT NULL REFERENCES accounts (name),
    fingerprint BLOB   NOT NULL,
    endpoint    TEXT,
    labels      TEXT,
    created     BIGINT NOT NULL,
    joined      BIGINT,
    PRIMARY KEY (account, fingerprint)
) WITHOUT ROWID;
