-- Presence by what a device has promised, devices that were taken out of service, and the history of a device.

-- `lifetime` and `sleeps` are the promise. While a device is not connected, `late_at` and `lost_at` say from when on it is late and lost,
-- and `presence_due` when that must next be told. It is NULL while nothing changes by time alone.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS lifetime BIGINT NOT NULL DEFAULT 300;
ALTER TABLE devices ADD COLUMN IF NOT EXISTS sleeps BIGINT NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN IF NOT EXISTS late_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN IF NOT EXISTS lost_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN IF NOT EXISTS presence_due BIGINT;
CREATE INDEX IF NOT EXISTS devices_by_presence_due ON devices (presence_due) WHERE presence_due IS NOT NULL;

-- When a device was decommissioned, and the SHA-256 of the factory certificate with which it last joined.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS decommissioned BIGINT;
ALTER TABLE devices ADD COLUMN IF NOT EXISTS factory_fingerprint BLOB ;

-- The device that an event is about, also where the event is one of a rollout.
ALTER TABLE events ADD COLUMN IF NOT EXISTS device TEXT;
UPDATE events SET device = SUBSTR(subject, 9) WHERE subject LIKE 'devices/%' AND device IS NULL;
CREATE INDEX IF NOT EXISTS events_by_device ON events (account, device, id) WHERE device IS NOT NULL;
