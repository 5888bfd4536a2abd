-- How devices are, in numbers. Values are whole numbers of steps of their metric.

-- What each device said last, and how far its time series have been condensed. `epoch` and `number` name the newest sample, `time` is when it
-- was measured. Before `hours_until` there are points of five minutes, before `days_until` points of an hour. `due` is when to look again.
CREATE TABLE IF NOT EXISTS device_metrics (
    account          TEXT   NOT NULL,
    endpoint         TEXT   NOT NULL,
    epoch            BIGINT NOT NULL,
    number           BIGINT NOT NULL,
    time             BIGINT NOT NULL,
    dropped          BIGINT NOT NULL,
    hours_until      BIGINT NOT NULL,
    days_until       BIGINT NOT NULL,
    due              BIGINT,
    cpu_load         BIGINT,
    memory_used      BIGINT,
    storage_used     BIGINT,
    temperature      BIGINT,
    network_received BIGINT,
    network_sent     BIGINT,
    boots            BIGINT,
    boots_unclean    BIGINT,
    agent_crashes    BIGINT,
    apps_exits       BIGINT,
    PRIMARY KEY (account, endpoint),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS device_metrics_due ON device_metrics (due) WHERE due IS NOT NULL;

-- Time series in pieces, each written once and never changed: the samples of one report (`step` 0), the points of five minutes of an hour (300),
-- the points of an hour of a day (3600). `first` and `last` are the times of the first and the last sample or point.
CREATE TABLE IF NOT EXISTS metric_chunks (
    account  TEXT   NOT NULL,
    endpoint TEXT   NOT NULL,
    step     BIGINT NOT NULL,
    first    BIGINT NOT NULL,
    last     BIGINT NOT NULL,
    chunk    BLOB   NOT NULL,
    PRIMARY KEY (account, endpoint, step, first),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
) WITHOUT ROWID;
