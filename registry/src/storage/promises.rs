//! The promises of storage, kept by every backend that can run here, and by a store that fails.

use bytes::Bytes;
use futures::TryStreamExt;
use oci::{Algorithm, Digest};

use super::faults::{Fault, Faulty};
use super::*;

const MIB: usize = 1024 * 1024;
/// The least that S3 takes.
const PART: u64 = 5 * MIB as u64;

fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

async fn all(mut stream: BlobStream) -> Result<Vec<u8>, StorageError> {
    let mut bytes = Vec::new();
    while let Some(block) = stream.try_next().await? {
        bytes.extend_from_slice(&block);
    }
    Ok(bytes)
}

async fn write(writer: &mut UploadWriter, content: &Bytes) -> Result<(), StorageError> {
    for start in (0..content.len()).step_by(MIB) {
        writer
            .write(content.slice(start..content.len().min(start + MIB)))
            .await?;
    }
    Ok(())
}

/// As between two processes: through what the database keeps.
fn handed_over(state: &UploadState) -> UploadState {
    let (algorithm, saved) = (state.hasher.algorithm(), state.hasher.save());
    UploadState::restore(state.offset_bytes, algorithm, &saved, &state.place()).unwrap()
}

fn id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Uploads `content` in chunks that end at `cuts`, and commits it.
async fn upload(
    store: &BlobStore,
    content: &Bytes,
    cuts: &[usize],
    digest: &Digest,
) -> Result<Commit, StorageError> {
    let id = id();
    let mut state = UploadState::begin(digest.algorithm());
    let mut start = 0;
    for &cut in cuts {
        let mut writer = store.upload_open(&id, handed_over(&state)).await?;
        write(&mut writer, &content.slice(start..cut)).await?;
        let next = writer.suspend().await?;
        if let Some(key) = state.superseded(&next) {
            store.upload_supersede(&key).await?;
        }
        state = next;
        assert_eq!(state.offset_bytes, cut as u64);
        start = cut;
    }
    let mut writer = store.upload_open(&id, handed_over(&state)).await?;
    write(&mut writer, &content.slice(start..)).await?;
    writer.commit(digest).await
}

async fn stored(
    store: &BlobStore,
    content: &Bytes,
    cuts: &[usize],
    digest: &Digest,
) -> Result<ObjectKey, StorageError> {
    match upload(store, content, cuts, digest).await? {
        Commit::Stored { key, size_bytes } => {
            assert_eq!(size_bytes, content.len() as u64);
            Ok(key)
        }
        Commit::Mismatch { actual } => panic!("{actual} instead of {digest}, cut at {cuts:?}"),
    }
}

async fn committed(store: &BlobStore) -> Vec<StoredBlob> {
    let mut found: Vec<_> = store.committed().try_collect().await.unwrap();
    found.sort_by(|a: &StoredBlob, b| a.key.as_str().cmp(b.key.as_str()));
    found
}

async fn keeps_its_promises(store: &BlobStore) {
    uploads_go_on_at_any_byte(store).await;
    ranges_are_exact(store).await;
    another_algorithm_is_found_out(store).await;
    wrong_bytes_leave_nothing(store).await;
    discarded_uploads_leave_nothing(store).await;
    unacknowledged_bytes_are_dropped(store).await;
    followers_read_what_grows(store).await;
    two_uploads_of_one_digest_do_not_touch_each_other(store).await;
}

async fn uploads_go_on_at_any_byte(store: &BlobStore) {
    let part = PART as usize;
    let long = noise(2 * part + part / 2, 1);
    let cases: [(usize, &[usize]); 12] = [
        (0, &[]),
        (0, &[0]),
        (1, &[]),
        (1, &[1]),
        (1000, &[400, 400, 1000]),
        (part, &[]),
        (part, &[part]),
        (part + 1, &[part - 1, part]),
        (2 * part, &[part + 1]),
        (long.len(), &[]),
        (long.len(), &[long.len()]),
        (long.len(), &[7, part + 7, 2 * part, 2 * part + 100]),
    ];
    let mut expected = Vec::new();
    for (length, cuts) in cases {
        let content = long.slice(..length);
        let digest = Digest::sha256(&content);
        let key = stored(store, &content, cuts, &digest).await.unwrap();
        assert_eq!(store.size(&key).await.unwrap(), Some(length as u64));
        let read = all(store.read(&key, length as u64, 0..length as u64).await.unwrap())
            .await
            .unwrap();
        assert!(read == content, "{length} bytes cut at {cuts:?}");
        expected.push(StoredBlob {
            digest,
            key,
            size_bytes: length as u64,
        });
    }
    expected.sort_by(|a, b| a.key.as_str().cmp(b.key.as_str()));
    assert_eq!(committed(store).await, expected);
    for blob in expected {
        store.delete(&blob.digest, &blob.key).await.unwrap();
        store.delete(&blob.digest, &blob.key).await.unwrap();
        assert_eq!(store.size(&blob.key).await.unwrap(), None);
        let read = store.read(&blob.key, 2, 0..1).await;
        assert!(matches!(read, Err(StorageError::Missing(_))));
    }
    assert_eq!(committed(store).await, []);
}

async fn ranges_are_exact(store: &BlobStore) {
    let content = noise(3 * PART as usize + 10, 2);
    let digest = Digest::sha256(&content);
    let key = stored(store, &content, &[], &digest).await.unwrap();
    let end = content.len();
    for range in [
        0..1,
        0..end,
        5..5,
        MIB - 1..MIB + 1,
        MIB..2 * MIB,
        end - 1..end,
        17..end,
    ] {
        let read = store
            .read(&key, end as u64, range.start as u64..range.end as u64)
            .await
            .unwrap();
        assert!(
            all(read).await.unwrap() == content.slice(range.clone()),
            "{range:?}"
        );
    }
    store.delete(&digest, &key).await.unwrap();
}

async fn another_algorithm_is_found_out(store: &BlobStore) {
    let content = noise(PART as usize + 3, 3);
    // Begun with the usual algorithm, named by the other one in the end.
    let id = id();
    for is_right in [true, false] {
        let state = UploadState::begin(Algorithm::Sha256);
        let mut writer = store.upload_open(&id, state).await.unwrap();
        write(&mut writer, &content).await.unwrap();
        let named = if is_right { &content[..] } else { b"other" };
        let digest = Digest::of(Algorithm::Sha512, named);
        match writer.commit(&digest).await.unwrap() {
            Commit::Stored { key, .. } => {
                assert!(is_right);
                store.delete(&digest, &key).await.unwrap();
            }
            Commit::Mismatch { actual } => {
                assert!(!is_right);
                assert_eq!(actual, Digest::of(Algorithm::Sha512, &content));
            }
        }
    }
    // Hashed on the way.
    let digest = Digest::of(Algorithm::Sha512, &content);
    let key = stored(store, &content, &[70], &digest).await.unwrap();
    store.delete(&digest, &key).await.unwrap();
}

async fn wrong_bytes_leave_nothing(store: &BlobStore) {
    for length in [10, PART as usize + 10] {
        let content = noise(length, 4);
        for cuts in [&[][..], &[5], &[length]] {
            let outcome = upload(store, &content, cuts, &Digest::sha256(b"other")).await;
            let Ok(Commit::Mismatch { actual }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(actual, Digest::sha256(&content));
        }
    }
    assert_eq!(committed(store).await, []);
    assert_eq!(objects(store).await, Vec::<String>::new());
}

async fn discarded_uploads_leave_nothing(store: &BlobStore) {
    let content = noise(PART as usize + 100, 5);
    for length in [0, 10, content.len()] {
        let id = id();
        let mut writer = store
            .upload_open(&id, UploadState::begin(Algorithm::Sha256))
            .await
            .unwrap();
        write(&mut writer, &content.slice(..length)).await.unwrap();
        let state = handed_over(&writer.suspend().await.unwrap());
        store.upload_discard(&id, &state).await.unwrap();
        store.upload_discard(&id, &state).await.unwrap();
        if length > 0 {
            let commit = match store.upload_open(&id, state).await {
                Ok(mut writer) => match writer.write(content.slice(..1)).await {
                    Ok(()) => writer.commit(&Digest::sha256(&content)).await.map(drop),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            assert!(commit.is_err(), "{length}");
        }
    }
    assert_eq!(objects(store).await, Vec::<String>::new());
}

async fn unacknowledged_bytes_are_dropped(store: &BlobStore) {
    let (good, bad) = (noise(PART as usize + 50, 6), noise(PART as usize + 70, 7));
    let id = id();
    let mut writer = store
        .upload_open(&id, UploadState::begin(Algorithm::Sha256))
        .await
        .unwrap();
    write(&mut writer, &good.slice(..40)).await.unwrap();
    let state = writer.suspend().await.unwrap();
    // A process that dies in the middle of a chunk.
    let mut writer = store.upload_open(&id, handed_over(&state)).await.unwrap();
    let progress = writer.progress();
    write(&mut writer, &bad).await.unwrap();
    drop(writer);
    if let Some(mut progress) = progress {
        // Its part arrives all the same, and what it began is known.
        progress.changed().await.unwrap();
        let begun = progress.borrow().clone();
        let abandoned = UploadState {
            place: upload::Place {
                tail: None,
                ..begun.place
            },
            ..begun
        };
        while progress.changed().await.is_ok() {}
        store.upload_discard(&id, &abandoned).await.unwrap();
    }
    let mut writer = store.upload_open(&id, handed_over(&state)).await.unwrap();
    write(&mut writer, &good.slice(40..)).await.unwrap();
    let digest = Digest::sha256(&good);
    let Commit::Stored { key, .. } = writer.commit(&digest).await.unwrap() else {
        panic!("the dropped bytes were kept")
    };
    store.delete(&digest, &key).await.unwrap();
    assert_eq!(objects(store).await, Vec::<String>::new());
}

async fn followers_read_what_grows(store: &BlobStore) {
    let content = noise(3 * PART as usize + 9, 8);
    let digest = Digest::sha256(&content);
    let state = UploadState::begin(Algorithm::Sha256);
    let (mut writer, growing) = store.upload_follow(&id(), state).await.unwrap();
    write(&mut writer, &content.slice(..MIB)).await.unwrap();
    let mut written = growing.written();
    written.wait_for(|&there| there == MIB as u64).await.unwrap();
    let first = growing.read(10, MIB as u64).await.unwrap();
    assert!(first == content.slice(10..10 + first.len()));
    write(&mut writer, &content.slice(MIB..)).await.unwrap();
    let Commit::Stored { key, .. } = writer.commit(&digest).await.unwrap() else {
        panic!("other bytes")
    };
    // Those who came early read on from the beginning.
    let mut read = Vec::new();
    while read.len() < content.len() {
        let block = growing
            .read(read.len() as u64, content.len() as u64)
            .await
            .unwrap();
        read.extend_from_slice(&block);
    }
    assert!(read == content);
    store.delete(&digest, &key).await.unwrap();
}

async fn two_uploads_of_one_digest_do_not_touch_each_other(store: &BlobStore) {
    let content = noise(1000, 9);
    let digest = Digest::sha256(&content);
    let one = stored(store, &content, &[], &digest).await.unwrap();
    let two = stored(store, &content, &[500], &digest).await.unwrap();
    assert_ne!(one, two);
    store.delete(&digest, &one).await.unwrap();
    let read = store.read(&two, 1000, 0..1000).await.unwrap();
    assert!(all(read).await.unwrap() == content);
    store.delete(&digest, &two).await.unwrap();
}

/// Everything that lies in storage.
async fn objects(store: &BlobStore) -> Vec<String> {
    let (objects, prefix): (Arc<dyn ObjectStore>, _) = match &store.backend {
        Backend::Directory { objects, .. } => (objects.clone(), object_store::path::Path::default()),
        Backend::Cloud(cloud) => (cloud.objects.clone(), cloud.path(keys::OBJECTS)),
    };
    let listed = objects
        .list(Some(&prefix))
        .map_ok(|meta| meta.location.to_string());
    listed.try_collect().await.unwrap()
}

fn open(location: &Location) -> (BlobStore, tempfile::TempDir) {
    let spool = tempfile::tempdir().unwrap();
    (BlobStore::open(location, spool.path()).unwrap(), spool)
}

#[tokio::test]
async fn a_directory_keeps_the_promises() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _spool) = open(&Location::directory(directory.path().to_owned()));
    keeps_its_promises(&store).await;
}

#[tokio::test]
async fn memory_keeps_the_promises() {
    let location = Location::parse(&"memory:".parse().unwrap(), Default::default(), PART);
    let (store, _spool) = open(&location.unwrap());
    keeps_its_promises(&store).await;
    let key = ObjectKey::random();
    let signed = store.presign(&key, Duration::from_secs(60)).await;
    assert!(signed.unwrap().is_none());
}

async fn a_server_keeps_the_promises(server: Option<blackbox::objects::ObjectServer>) {
    let Some(server) = server else { return };
    let location = Location::parse(&server.url().parse().unwrap(), server.options().clone(), PART).unwrap();
    let (store, spool) = open(&location);
    keeps_its_promises(&store).await;
    presigned_urls_read_and_nothing_else(&store, server.checks_signatures()).await;
    let left = std::fs::read_dir(spool.path()).unwrap().count();
    assert_eq!(left, 0, "the spool has no names");
}

async fn presigned_urls_read_and_nothing_else(store: &BlobStore, is_checked: bool) {
    let content = noise(1000, 10);
    let digest = Digest::sha256(&content);
    let key = stored(store, &content, &[], &digest).await.unwrap();
    let client = reqwest::Client::new();
    let signed = store.presign(&key, Duration::from_secs(60)).await;
    let get = signed.unwrap().unwrap();
    let read = client
        .get(get.clone())
        .header("range", "bytes=5-9")
        .send()
        .await
        .unwrap();
    assert_eq!(read.status(), 206);
    assert_eq!(read.bytes().await.unwrap(), content.slice(5..10));
    if is_checked {
        let delete = client.delete(get.clone()).send().await.unwrap();
        assert_eq!(delete.status(), 403);
        let mut unsigned = get;
        unsigned.set_query(None);
        assert_eq!(client.get(unsigned).send().await.unwrap().status(), 403);
    }
    store.delete(&digest, &key).await.unwrap();
}

// The harness waits for its servers on the thread that it runs on.
async fn started(
    start: fn() -> Option<blackbox::objects::ObjectServer>,
) -> Option<blackbox::objects::ObjectServer> {
    tokio::task::spawn_blocking(start).await.unwrap()
}

#[tokio::test]
async fn s3_keeps_the_promises() {
    a_server_keeps_the_promises(started(blackbox::objects::ObjectServer::s3).await).await;
}

#[tokio::test]
async fn azure_keeps_the_promises() {
    a_server_keeps_the_promises(started(blackbox::objects::ObjectServer::azure).await).await;
}

#[tokio::test]
async fn an_upload_shorter_than_its_offset_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _spool) = open(&Location::directory(directory.path().to_owned()));
    let mut state = UploadState::begin(Algorithm::Sha256);
    state.offset_bytes = 1;
    let lost = store.upload_open("u", state).await;
    assert!(matches!(lost, Err(StorageError::UploadLost(_))));
}

fn faulty(fault: Fault, nth: usize) -> (BlobStore, Arc<Faulty>, tempfile::TempDir) {
    let spool = tempfile::tempdir().unwrap();
    let store = Faulty::new(fault, nth);
    let cloud = Cloud::new(
        store.clone(),
        None,
        object_store::path::Path::default(),
        spool.path().to_owned(),
        100_000,
    );
    let backend = Backend::Cloud(Arc::new(cloud));
    (BlobStore { backend }, store, spool)
}

/// Whatever fails at whatever step: what is said to be stored is there, and what is not can be done again.
#[tokio::test]
async fn a_failing_store_never_makes_wrong_blobs() {
    let content = noise(450_000, 11);
    let digest = Digest::sha256(&content);
    for fault in [Fault::Refused, Fault::AnswerLost, Fault::Short] {
        let mut nth = 1;
        loop {
            let (store, faults, _spool) = faulty(fault, nth);
            let key = match stored(&store, &content, &[130_000, 330_000], &digest).await {
                Ok(key) => key,
                Err(_) => {
                    assert!(faults.has_happened());
                    stored(&store, &content, &[130_000, 330_000], &digest)
                        .await
                        .unwrap_or_else(|error| panic!("again after {fault:?} at {nth}: {error:?}"))
                }
            };
            let read = faults.inner().get(&key.as_str().into()).await.unwrap();
            assert!(read.bytes().await.unwrap() == content, "{fault:?} at {nth}");
            if !faults.has_happened() {
                break;
            }
            nth += 1;
        }
        assert!(nth > 10, "only {nth} operations");
    }
}

/// A lost answer to the last step must not make the client send everything again.
#[tokio::test]
async fn a_completion_whose_answer_is_lost_is_found_to_have_happened() {
    let content = noise(250_000, 12);
    let digest = Digest::sha256(&content);
    // Begin, two parts and the rest come before it, whatever the order of the journal.
    let mut seen = 0;
    for nth in 1..8 {
        let (store, faults, _spool) = faulty(Fault::AnswerLost, nth);
        if stored(&store, &content, &[], &digest).await.is_ok() && faults.has_happened() {
            seen += 1;
        }
    }
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn a_stalled_part_holds_the_client_back_and_not_the_memory() {
    let content = noise(100_000, 13);
    let (store, _faults, _spool) = faulty(Fault::Stalled, 2);
    let state = UploadState::begin(Algorithm::Sha256);
    let mut writer = store.upload_open("u", state).await.unwrap();
    let mut taken = 0;
    while tokio::time::timeout(Duration::from_millis(500), writer.write(content.clone()))
        .await
        .is_ok()
    {
        taken += 1;
        assert!(taken < 20, "a stalled upload takes no end of bytes");
    }
    assert!(taken >= 4, "only {taken}");
}
