-- Waves, thresholds, pace, retries, priorities and approval of rollouts; which try a wish and a report belong to.

-- `policy` is what needs no query of its own. `wave` is the last one that is open; `excused` are failures that an operator has seen.
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS policy TEXT NOT NULL DEFAULT '{}';
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS priority BIGINT NOT NULL DEFAULT 50;
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS on_failure TEXT NOT NULL DEFAULT 'stop';
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS wave BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS closed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS excused BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS started_by TEXT;
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS approved_by TEXT;
-- The rollout whose devices this one brings back.
ALTER TABLE rollouts ADD COLUMN IF NOT EXISTS brings_back TEXT;

-- `wave` is there once the device has one; `failed` counts tries that failed, `attempt` is the try that counts now. `offered` is when the wish was last made, `previous` the
-- digest of what ran before, `returned` the rollout that brings the device back, or `none` if nothing can.
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS wave BIGINT;
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS attempt BIGINT NOT NULL DEFAULT 1;
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS failed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS not_before BIGINT;
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS offered BIGINT;
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS previous TEXT;
ALTER TABLE rollout_devices ADD COLUMN IF NOT EXISTS returned TEXT;
CREATE INDEX IF NOT EXISTS rollout_devices_by_offer ON rollout_devices (account, rollout, offered);
CREATE INDEX IF NOT EXISTS rollout_devices_by_wave ON rollout_devices (account, rollout, wave, state);

ALTER TABLE desired_releases ADD COLUMN IF NOT EXISTS attempt BIGINT NOT NULL DEFAULT 1;
ALTER TABLE device_reports ADD COLUMN IF NOT EXISTS attempt BIGINT NOT NULL DEFAULT 1;
-- Tries of any rollout that failed since the last one that succeeded, or since an operator forgave them.
ALTER TABLE devices ADD COLUMN IF NOT EXISTS update_failures BIGINT NOT NULL DEFAULT 0;
