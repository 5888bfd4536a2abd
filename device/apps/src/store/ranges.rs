//! Which application has which range of user ids. A range is never given to another application, so nothing that one leaves
//! behind can belong to the next.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use protocol_types::AppName;
use serde::{Deserialize, Serialize};

use super::{StoreError, durable};
use crate::limits::Limits;

const FILE: &str = "ranges.json";

/// The record of ranges; range n starts at the first id plus n times 65,536.
#[derive(Debug)]
pub struct Ranges {
    dir: PathBuf,
    first_uid: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    ranges: BTreeMap<AppName, u32>,
}

impl Ranges {
    pub(super) fn open(dir: &Path, first_uid: u32) -> Result<Self, StoreError> {
        durable::remove(&dir.join(format!("{FILE}{}", durable::TEMPORARY)))?;
        Ok(Self { dir: dir.to_owned(), first_uid })
    }

    /// The first user id of the application's range; an application seen for the first time gets the next range.
    pub fn first_uid(&self, name: &AppName) -> Result<u32, StoreError> {
        let mut record = self.load()?;
        let number = match record.ranges.get(name) {
            Some(number) => *number,
            None => {
                let number = record.ranges.values().max().map_or(0, |highest| highest.saturating_add(1));
                self.start(number, name)?;
                record.ranges.insert(name.clone(), number);
                self.save(&record)?;
                number
            }
        };
        self.start(number, name)
    }

    fn start(&self, number: u32, name: &AppName) -> Result<u32, StoreError> {
        let start = number.checked_mul(Limits::OWNERS).and_then(|offset| self.first_uid.checked_add(offset));
        // The last id of all means "no change" to the kernel.
        start
            .filter(|start| start.checked_add(Limits::OWNERS).is_some())
            .ok_or_else(|| StoreError::NoRange(name.clone()))
    }

    fn load(&self) -> Result<Record, StoreError> {
        let path = self.dir.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| StoreError::Malformed { path, source }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Record { format: 1, ranges: BTreeMap::new() })
            }
            Err(source) => Err(StoreError::Io { what: "read", path, source }),
        }
    }

    fn save(&self, record: &Record) -> Result<(), StoreError> {
        let malformed = |source| StoreError::Malformed { path: self.dir.join(FILE), source };
        durable::write(&self.dir, FILE, &serde_json::to_vec(record).map_err(malformed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_keeps_its_range_and_shares_it_with_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let name = |text: &str| AppName::new(text).unwrap();
        let ranges = Ranges::open(dir.path(), 1_000_000).unwrap();
        assert_eq!(ranges.first_uid(&name("one")).unwrap(), 1_000_000);
        assert_eq!(ranges.first_uid(&name("two")).unwrap(), 1_065_536);
        let reopened = Ranges::open(dir.path(), 1_000_000).unwrap();
        assert_eq!(reopened.first_uid(&name("one")).unwrap(), 1_000_000);
        assert_eq!(reopened.first_uid(&name("three")).unwrap(), 1_131_072);
    }

    #[test]
    fn a_range_beyond_the_last_user_id_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = Ranges::open(dir.path(), u32::MAX - 65_535).unwrap();
        let refused = ranges.first_uid(&AppName::new("one").unwrap());
        assert!(matches!(refused, Err(StoreError::NoRange(_))));
        assert!(!dir.path().join(FILE).exists(), "a refusal left a record behind");
    }
}
