//! The logs of applications: which stay when no set names their application any more. Never writes one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use protocol_types::AppName;

use super::{StoreError, durable};

/// So many applications that no set names keep their logs, since who looks for a reason comes later. A number and no age: the clock of
/// a device may have been wrong.
const GONE: usize = 8;

/// The folder of logs.
#[derive(Debug)]
pub struct Logs {
    dir: PathBuf,
}

impl Logs {
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        durable::folder(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The files of an application's log, the newer first.
    pub fn files(name: &AppName) -> [String; 2] {
        [format!("{name}.log"), format!("{name}.log.1")]
    }

    /// Removes the logs of applications that are not `named`, but for the [`GONE`] that wrote last.
    pub(super) fn retain(&self, named: &BTreeSet<AppName>) -> Result<(), StoreError> {
        let mut written = BTreeMap::new();
        for file in durable::names(&self.dir)? {
            let Some(name) = application_of(&file).filter(|name| !named.contains(name)) else { continue };
            let path = self.dir.join(&file);
            let time = match fs::metadata(&path).and_then(|meta| meta.modified()) {
                // An application that still runs gave its log another name.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                time => time.map_err(StoreError::io("look at", &path))?,
            };
            let newest = written.entry(name).or_insert(time);
            *newest = time.max(*newest);
        }
        let mut gone: Vec<(SystemTime, AppName)> = written.into_iter().map(|(name, time)| (time, name)).collect();
        gone.sort_unstable();
        for (_, name) in gone.iter().rev().skip(GONE) {
            for file in Self::files(name) {
                durable::remove(&self.dir.join(file))?;
            }
        }
        Ok(())
    }
}

fn application_of(file: &str) -> Option<AppName> {
    let name = file.strip_suffix(".log").or_else(|| file.strip_suffix(".log.1"))?;
    AppName::new(name).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn logs_of_the_applications_that_wrote_last_outlive_their_sets_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path()).unwrap();
        let name = |number: u64| AppName::new(format!("app{number}")).unwrap();
        let write = |file: &str, at: u64| {
            let file = fs::File::create(folder.path().join(file)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at)).unwrap();
        };
        for number in 0..12 {
            Logs::files(&name(number)).iter().for_each(|file| write(file, number));
        }
        write("note", 0);
        // Power failed when the newer file had become the older one.
        fs::remove_file(folder.path().join("app1.log")).unwrap();
        logs.retain(&BTreeSet::from([name(0)])).unwrap();
        let mut stay: BTreeSet<String> = [0].into_iter().chain(4..12).flat_map(|n| Logs::files(&name(n))).collect();
        stay.insert("note".to_owned());
        assert_eq!(durable::names(folder.path()).unwrap().into_iter().collect::<BTreeSet<_>>(), stay);
    }
}
