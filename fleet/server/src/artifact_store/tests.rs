//! What a store of artifacts promises, held against a folder and against a bucket.

use object_store::{memory::InMemory, multipart::MultipartStore as _};

use super::*;

fn account() -> AccountName {
    AccountName::new("acme").unwrap()
}

/// A store of each kind in a folder of its own.
fn stores(folder: &Path) -> [ArtifactStore; 2] {
    [
        ArtifactStore::new(&folder.join("folder"), None),
        ArtifactStore::new(&folder.join("bucket"), Some(Bucket::in_memory(InMemory::new()))),
    ]
}

/// Uploads all of it and checks it as if it were `digest`.
async fn upload(store: &ArtifactStore, digest: Digest, bytes: &[u8]) -> Checked {
    let turn = store.turn(&account(), digest).unwrap();
    let mut part = turn.open(0).await.unwrap().unwrap();
    part.write(bytes).await.unwrap();
    part.sync().await.unwrap();
    turn.finish().await.unwrap()
}

async fn read(store: &ArtifactStore, digest: &Digest, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut stream = store.stream(&account(), digest, range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn bytes_after_the_last_acknowledged_one_do_not_survive_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(folder.path()) {
        let digest = Digest::of(b"good bytes");
        {
            let turn = store.turn(&account(), digest).unwrap();
            let mut part = turn.open(0).await.unwrap().unwrap();
            part.write(b"good garbage").await.unwrap();
            part.sync().await.unwrap();
        }
        let turn = store.turn(&account(), digest).unwrap();
        let mut part = turn.open(5).await.unwrap().unwrap();
        part.write(b"bytes").await.unwrap();
        part.sync().await.unwrap();
        assert_eq!(turn.finish().await.unwrap(), Checked::Kept);
        assert_eq!(turn.finish().await.unwrap(), Checked::Kept, "asked again after a crash");
        assert_eq!(store.read(&account(), &digest).await.unwrap(), b"good bytes");
    }
}

#[tokio::test]
async fn bytes_with_another_digest_are_discarded_and_lost_ones_noticed() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(folder.path()) {
        // Of one part in the bucket, and of several.
        for bytes in [b"other!".to_vec(), vec![7; 1000]] {
            let wanted = Digest::of(b"wanted");
            assert_eq!(upload(&store, wanted, &bytes).await, Checked::Discarded);
            let turn = store.turn(&account(), wanted).unwrap();
            assert_eq!(turn.finish().await.unwrap(), Checked::Discarded, "asked again when nothing is there");
            assert!(turn.open(6).await.unwrap().is_none(), "acknowledged bytes are gone");
            durable::remove(&turn.part_path()).unwrap();
            assert!(store.read(&account(), &wanted).await.is_err());
        }
    }
}

#[tokio::test]
async fn any_range_of_an_artifact_of_any_length_is_what_was_uploaded() {
    let folder = tempfile::tempdir().unwrap();
    for store in stores(folder.path()) {
        // Around the 16 bytes of a part, of which the last one may be shorter.
        for length in [0, 1, 15, 16, 17, 32, 100_000_usize] {
            let bytes: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
            let digest = Digest::of(&bytes);
            assert_eq!(upload(&store, digest, &bytes).await, Checked::Kept);
            for (first, last) in [(0, length), (length / 3, length), (length / 3, length / 2), (length, length)] {
                let range = first as u64..last as u64;
                assert_eq!(
                    read(&store, &digest, range).await.unwrap(),
                    bytes[first..last],
                    "{first}..{last} of {length}"
                );
            }
        }
        let other = read(&store, &Digest::of(b"never uploaded"), 0..5).await.unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn two_uploads_of_the_same_bytes_never_write_at_once_and_the_second_may_wait() {
    let store = ArtifactStore::new(Path::new("/nowhere"), None);
    let digest = Digest::of(b"x");
    let turn = store.turn(&account(), digest).unwrap();
    assert!(store.turn(&account(), digest).is_none());
    let mine = account();
    let (second, ()) = tokio::join!(store.next_turn(&mine, digest), async { drop(turn) });
    assert!(second.is_some() && store.turn(&account(), digest).is_none());
}

#[tokio::test]
async fn artifacts_that_were_complete_before_there_was_a_bucket_are_served_all_the_time_and_end_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (before, after) = (ArtifactStore::new(folder.path(), None), Bucket::in_memory(InMemory::new()));
    let store = ArtifactStore::new(folder.path(), Some(after.clone()));
    let (small, large) = (b"small".to_vec(), vec![3; 100]);
    for bytes in [&small, &large] {
        assert_eq!(upload(&before, Digest::of(bytes), bytes).await, Checked::Kept);
    }
    // One that the disk has bent since.
    let bent = Digest::of(b"straight");
    assert_eq!(upload(&before, bent, b"straight").await, Checked::Kept);
    fs::write(store.path(&account(), &bent), b"bentbent").unwrap();
    for bytes in [&small, &large] {
        assert_eq!(read(&store, &Digest::of(bytes), 2..5).await.unwrap(), bytes[2..5], "before it was moved");
    }
    assert_eq!(store.move_all(&after).await.unwrap(), 1, "the bent one is left");
    assert_eq!(store.move_all(&after).await.unwrap(), 1);
    for bytes in [&small, &large] {
        assert!(!store.path(&account(), &Digest::of(bytes)).exists());
        assert_eq!(read(&store, &Digest::of(bytes), 2..5).await.unwrap(), bytes[2..5], "after it was moved");
    }
    let listed = after.list().await.unwrap();
    let wanted = [&small, &large].map(|bytes| (format!("acme/{}", Digest::of(bytes).hex()), bytes.len() as u64));
    assert_eq!(listed, wanted.into_iter().collect::<std::collections::BTreeMap<_, _>>());
}

#[tokio::test]
async fn an_upload_in_parts_that_a_crash_cut_off_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let objects = InMemory::new();
    let bucket = Bucket::in_memory(objects.clone());
    let store = ArtifactStore::new(folder.path(), Some(bucket.clone()));
    let bytes = vec![5; 100];
    let digest = Digest::of(&bytes);
    let turn = store.turn(&account(), digest).unwrap();
    let mut part = turn.open(0).await.unwrap().unwrap();
    part.write(&bytes).await.unwrap();
    part.sync().await.unwrap();
    let anywhere = "somewhere".into();
    let id = objects.create_multipart(&anywhere).await.unwrap();
    objects.put_part(&anywhere, &id, 0, "a part".into()).await.unwrap();
    fs::write(turn.note_path(), &id).unwrap();
    drop(turn);
    assert_eq!(store.move_all(&bucket).await.unwrap(), 0);
    assert!(objects.put_part(&anywhere, &id, 1, "another".into()).await.is_err(), "it was taken back");
    let turn = store.turn(&account(), digest).unwrap();
    assert!(!turn.note_path().exists());
    assert_eq!(turn.finish().await.unwrap(), Checked::Kept, "the upload goes on");
    assert!(!turn.part_path().exists() && !turn.note_path().exists(), "nothing is left on the disk");
}
