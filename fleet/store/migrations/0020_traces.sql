-- Which trace the request belonged to that last changed something: what devices are told because of it belongs there, too. `parent` is a W3C
-- `traceparent`. Written only by a service that sends traces, and forgotten after some days.
CREATE TABLE IF NOT EXISTS traces (
    account TEXT NOT NULL REFERENCES accounts (name),
    subject TEXT NOT NULL,
    parent TEXT NOT NULL,
    noted BIGINT NOT NULL,
    PRIMARY KEY (account, subject)
);
CREATE INDEX IF NOT EXISTS traces_by_time ON traces (noted);
