-- Recovery keys of devices' states, sealed to the account's key. `number` counts those of a device: the newest are kept.
CREATE TABLE IF NOT EXISTS recovery_keys (
    account  TEXT   NOT NULL,
    endpoint TEXT   NOT NULL,
    volume   TEXT   NOT NULL,
    number   BIGINT NOT NULL,
    sealed   TEXT   NOT NULL,
    received BIGINT NOT NULL,
    PRIMARY KEY (account, endpoint, volume),
    FOREIGN KEY (account, endpoint) REFERENCES devices (account, endpoint) ON DELETE CASCADE
);
