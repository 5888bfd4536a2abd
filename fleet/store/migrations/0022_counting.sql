-- Counting a million devices from an index alone, without sorting them.

-- The classes of a dry run. The standing is not at the front, where a list of all active devices would take this index and sort.
CREATE INDEX IF NOT EXISTS devices_by_class ON devices (account, update_failures, connected, standing, endpoint);
-- Nothing asks for connected devices of all accounts.
DROP INDEX IF EXISTS devices_connected;

-- The text of a version stands beside its key, so that versions are counted here as well.
CREATE INDEX IF NOT EXISTS device_components_by_key ON device_components (account, name, version_key, version, endpoint);
DROP INDEX IF EXISTS device_components_by_version;
