//! The file of a backup: a tar whose last member lists the digest of each other one. Reads what it writes, and nothing with another form.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Component, Path, PathBuf},
};

use protocol_types::{Digest, Hasher};

use super::{BackupError, at};

/// The last member: an object from the name of each other member to its digest.
const DIGESTS: &str = "digests.json";
/// The longest list of digests, in bytes: some millions of members.
const MAX_DIGESTS: u64 = 1 << 30;

/// The longest first member that is read, in bytes.
const MAX_FIRST: u64 = 64 * 1024;

/// Bytes that are hashed on their way.
struct Hashed<I> {
    inner: I,
    hasher: Hasher,
    bytes: u64,
}

impl<I> Hashed<I> {
    fn new(inner: I) -> Self {
        Self { inner, hasher: Hasher::new(), bytes: 0 }
    }

    fn took(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += u64::try_from(bytes.len()).unwrap_or(0);
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.took(into.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.took(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A backup that grows.
pub(super) struct Writer {
    path: PathBuf,
    tar: tar::Builder<BufWriter<File>>,
    digests: BTreeMap<String, Digest>,
}

impl Writer {
    /// Begins a backup in the new file `path`, for its owner alone.
    pub(super) fn new(path: &Path) -> Result<Self, BackupError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at("make", path))?;
        let tar = tar::Builder::new(BufWriter::new(file));
        Ok(Self { path: path.to_owned(), tar, digests: BTreeMap::new() })
    }

    /// Adds the file `from` under `name`.
    pub(super) fn add(&mut self, name: &str, from: &Path) -> Result<(), BackupError> {
        let file = File::open(from).map_err(at("read", from))?;
        let metadata = file.metadata().map_err(at("read", from))?;
        let size = metadata.len();
        self.member(name, (size, metadata.permissions().mode()), BufReader::new(file).take(size))
            .map_err(at("copy", from))
    }

    /// Adds bytes that are in memory.
    pub(super) fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.member(name, (size, 0o600), bytes).map_err(at("write", &self.path.clone()))
    }

    fn member(&mut self, name: &str, (size, mode): (u64, u32), bytes: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(mode & 0o644);
        let mut bytes = Hashed::new(bytes);
        self.tar.append_data(&mut header, name, &mut bytes)?;
        if bytes.bytes != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was copied"));
        }
        self.digests.insert(name.to_owned(), bytes.hasher.finish());
        Ok(())
    }

    /// Lists the digests and brings everything onto the disk; how many members there are.
    pub(super) fn finish(mut self) -> Result<usize, BackupError> {
        let members = self.digests.len();
        let list = serde_json::to_vec(&self.digests).map_err(|e| at("write", &self.path)(e.into()))?;
        self.add_bytes(DIGESTS, &list)?;
        let path = self.path;
        let flushed =
            self.tar.into_inner().and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error));
        flushed.and_then(|file| file.sync_all()).map_err(at("write", &path))?;
        Ok(members)
    }
}

/// The content of the first member, if that is `name`.
pub(super) fn first(path: &Path, name: &str) -> Result<Option<Vec<u8>>, BackupError> {
    let file = File::open(path).map_err(at("read", path))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    // What is no archive at all has no first member.
    let Some(Ok(entry)) = archive.entries().map_err(at("read", path))?.next() else { return Ok(None) };
    if !entry.path().is_ok_and(|found| found == Path::new(name)) {
        return Ok(None);
    }
    let mut text = Vec::new();
    entry.take(MAX_FIRST).read_to_end(&mut text).map_err(at("read", path))?;
    Ok(Some(text))
}

/// Unpacks the backup in `path` and brings everything onto the disk; how many members there are. `place` says where a member
/// goes; one without a place is refused.
pub(super) fn unpack(path: &Path, place: impl Fn(&str) -> Option<PathBuf>) -> Result<usize, BackupError> {
    let broken = |rule: String| BackupError::Broken { path: path.to_owned(), rule };
    let file = File::open(path).map_err(at("read", path))?;
    let mut archive = tar::Archive::new(BufReader::new(file));
    let (mut found, mut listed) = (BTreeMap::new(), None);
    for entry in archive.entries().map_err(at("read", path))? {
        let mut entry = entry.map_err(at("read", path))?;
        let name = entry.path().map_err(at("read", path))?.to_str().map(str::to_owned);
        let name = name.ok_or_else(|| broken("a member's name is not UTF-8".to_owned()))?;
        let is_plain = Path::new(&name).components().all(|part| matches!(part, Component::Normal(_)));
        if listed.is_some() || !is_plain || entry.header().entry_type() != tar::EntryType::Regular {
            return Err(broken(format!("`{name}` is no member of a backup")));
        }
        if name == DIGESTS {
            let mut text = Vec::new();
            entry.take(MAX_DIGESTS).read_to_end(&mut text).map_err(at("read", path))?;
            let list: BTreeMap<String, Digest> = serde_json::from_slice(&text)
                .map_err(|e| broken(format!("the list of its digests is not understood: {e}")))?;
            listed = Some(list);
            continue;
        }
        let to = place(&name).ok_or_else(|| broken(format!("`{name}` has no place in this restore")))?;
        let mode = entry.header().mode().map_err(at("read", path))?;
        let digest = write(&mut entry, &to, mode).map_err(at("write", &to))?;
        found.insert(name, digest);
    }
    if listed.as_ref() != Some(&found) {
        return Err(broken("its members are not those that it lists; it is cut off or damaged".to_owned()));
    }
    Ok(found.len())
}

fn write(from: &mut impl Read, to: &Path, mode: u32) -> io::Result<Digest> {
    if let Some(folder) = to.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o644).open(to)?;
    let mut into = Hashed::new(file);
    io::copy(from, &mut into)?;
    into.inner.sync_all()?;
    Ok(into.hasher.finish())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A backup with two members, and its bytes.
    fn backup(folder: &Path) -> (PathBuf, Vec<u8>) {
        let (from, path) = (folder.join("key"), folder.join("backup.tar"));
        fs::write(&from, vec![7; 5000]).unwrap();
        let mut writer = Writer::new(&path).unwrap();
        writer.add_bytes("backup.json", b"{}").unwrap();
        writer.add("data/authority/key.pem", &from).unwrap();
        assert_eq!(writer.finish().unwrap(), 2);
        (path.clone(), fs::read(path).unwrap())
    }

    fn unpacked(path: &Path) -> Result<tempfile::TempDir, BackupError> {
        let folder = tempfile::tempdir().unwrap();
        unpack(path, |name| Some(folder.path().join(name))).map(|_| folder)
    }

    #[test]
    fn what_goes_in_comes_out_for_its_owner_alone_unless_it_was_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = backup(folder.path());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let out = unpacked(&path).unwrap();
        let key = out.path().join("data/authority/key.pem");
        assert_eq!(fs::read(&key).unwrap(), vec![7; 5000]);
        assert_eq!(fs::metadata(out.path().join("backup.json")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_backup_with_any_bit_of_a_member_flipped_or_cut_anywhere_is_refused(at: proptest::sample::Index, bit in 0..8_u32) {
            let folder = tempfile::tempdir().unwrap();
            let (path, whole) = backup(folder.path());
            // Of the members; the rest is padding, which says nothing.
            let content = (512..514).chain(1536..6536).collect::<Vec<_>>();
            let mut bent = whole.clone();
            bent[content[at.index(content.len())]] ^= 1_u8 << bit;
            fs::write(&path, &bent).unwrap();
            prop_assert!(unpacked(&path).is_err());
            let list = whole.len() - at.index(whole.len() - 1024);
            fs::write(&path, &whole[..whole.len() - list.min(whole.len())]).unwrap();
            prop_assert!(unpacked(&path).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("backup.tar");
            fs::write(&path, bytes).unwrap();
            prop_assert!(unpacked(&path).is_err());
        }
    }

    #[test]
    fn a_member_that_leads_out_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.tar");
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..9].copy_from_slice(b"../secret");
        header.set_size(1);
        header.set_mode(0o600);
        header.set_cksum();
        tar.append(&header, &b"x"[..]).unwrap();
        fs::write(&path, tar.into_inner().unwrap()).unwrap();
        assert!(matches!(unpacked(&path), Err(BackupError::Broken { .. })));
    }
}
