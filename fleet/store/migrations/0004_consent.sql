-- A rollout may wait, on each device, for an operator's consent; `consented` is when it was given.

ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS consent TEXT NOT NULL DEFAULT 'automatic';
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS consented BIGINT;
