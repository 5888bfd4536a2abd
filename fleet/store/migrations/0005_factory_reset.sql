-- A factory reset that an operator asked for, until the device has taken it; `reset_told` is 1 once it may have heard of it.

ALTER TABLE devices ADD COLUMN IF NOT EXISTS reset_asked BIGINT;
ALTER TABLE devices ADD COLUMN IF NOT EXISTS reset_told BIGINT NOT NULL DEFAULT 0;
