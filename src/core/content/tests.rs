//! Tests of the content store: what is whole is found, what is not leaves nothing.
use super::*;
use crate::core::lease::{Leases, Resource};
use crate::core::metadata::scratch::{self, Scratch};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

const NS: &str = "n";

struct Node {
    dir: Scratch,
    db: Arc<Db>,
    store: Store,
}

fn node(name: &str) -> Node {
    let dir = scratch::dir(name);
    let db = Arc::new(Db::open(&dir.path().join("meta")).unwrap());
    let store = Store::open(&dir.path().join("content"), db.clone()).unwrap();
    Node { dir, db, store }
}

impl Node {
    fn put(&self, text: &str) -> Digest {
        let mut ingest = self.store.writer(NS, text, Expected::default()).unwrap();
        ingest.write_all(text.as_bytes()).unwrap();
        ingest.commit(Labels::new()).unwrap()
    }
    fn ingest_dirs(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("content/ingest")).unwrap().count()
    }
    fn restart(self) -> Node {
        let Node { dir, db, store } = self;
        drop((db, store));
        let db = Arc::new(Db::open(&dir.path().join("meta")).unwrap());
        let store = Store::open(&dir.path().join("content"), db.clone()).unwrap();
        Node { dir, db, store }
    }
}

fn expect(text: &str) -> Expected {
    Expected { digest: Some(Digest::of(text)), size: Some(text.len() as u64) }
}

#[test]
fn a_commit_makes_a_blob_with_labels_and_narrow_modes() {
    let node = node("content-commit");
    let mut ingest = node.store.writer(NS, "r", expect("hello")).unwrap();
    ingest.write_all(b"hello").unwrap();
    let digest = ingest.commit(Labels::from([("a".into(), "b".into())])).unwrap();
    let info = node.store.info(NS, &digest).unwrap();
    assert_eq!((info.size, info.labels["a"].as_str()), (5, "b"));
    assert_eq!(node.store.read(NS, &digest, 5).unwrap(), b"hello");
    assert_eq!(node.store.list(NS).unwrap(), [info]);
    assert_eq!(node.ingest_dirs(), 0);
    let mode = |path: &str| std::fs::metadata(node.dir.path().join("content").join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&format!("blobs/sha256/{}", digest.hex())), 0o600);
    assert_eq!((mode("blobs/sha256"), mode("ingest")), (0o700, 0o700));
    let node = node.restart();
    assert_eq!(node.store.read(NS, &digest, 5).unwrap(), b"hello");
}

#[test]
fn sha512_is_hashed_and_stored_as_such() {
    let node = node("content-sha512");
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"hello");
    let digest = hasher.finish();
    let mut ingest = node.store.writer(NS, "r", Expected { digest: Some(digest.clone()), size: None }).unwrap();
    ingest.write_all(b"hello").unwrap();
    assert_eq!(ingest.commit(Labels::new()).unwrap(), digest);
    assert_eq!(node.store.read(NS, &digest, 5).unwrap(), b"hello");
}

#[test]
fn wrong_bytes_are_refused_and_gone() {
    let node = node("content-wrong");
    let short = Expected { size: Some(9), ..Expected::default() };
    for (expected, both) in
        [(expect("jello"), [Digest::of("jello"), Digest::of("hello")].map(|d| d.to_string())), (short, ["5", "9"].map(String::from))]
    {
        let mut ingest = node.store.writer(NS, "r", expected).unwrap();
        ingest.write_all(b"hello").unwrap();
        let error = ingest.commit(Labels::new()).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(both.iter().all(|b| error.chain().contains(b)), "{}", error.chain());
        assert_eq!(node.ingest_dirs(), 0);
    }
    assert!(node.store.list(NS).unwrap().is_empty());
}

#[test]
fn more_bytes_than_expected_are_refused_as_they_come() {
    let node = node("content-endless");
    let mut ingest = node.store.writer(NS, "r", expect("hello")).unwrap();
    ingest.write_all(b"hell").unwrap();
    let error = ingest.write_all(b"ooo").unwrap_err();
    assert!(error.to_string().contains("more than the 5 bytes"), "{error}");
    ingest.write_all(b"o").unwrap();
    ingest.commit(Labels::new()).unwrap();
}

#[test]
fn a_kept_ingest_is_resumed_also_after_a_restart() {
    let node = node("content-resume");
    let mut ingest = node.store.writer(NS, "r", expect("hello world")).unwrap();
    ingest.write_all(b"hello").unwrap();
    ingest.keep();
    let status = &node.store.ingests(NS).unwrap()[0];
    assert_eq!((status.reference.as_str(), status.offset, status.total), ("r", 5, 11));
    assert_eq!(status.expected, Some(Digest::of("hello world")));
    assert!(node.store.ingests("other").unwrap().is_empty());
    let node = node.restart();
    let mut ingest = node.store.writer(NS, "r", expect("hello world")).unwrap();
    assert_eq!(ingest.offset(), 5);
    ingest.write_all(b" world").unwrap();
    ingest.commit(Labels::new()).unwrap();
    assert_eq!(node.ingest_dirs(), 0);
}

#[test]
fn an_ingest_begun_for_another_blob_starts_afresh() {
    let node = node("content-other");
    let mut ingest = node.store.writer(NS, "r", expect("hello")).unwrap();
    ingest.write_all(b"hel").unwrap();
    ingest.keep();
    let ingest = node.store.writer(NS, "r", expect("jello")).unwrap();
    assert_eq!(ingest.offset(), 0);
    ingest.keep();
    let long = Expected { digest: None, size: None };
    let mut ingest = node.store.writer(NS, "s", long).unwrap();
    ingest.write_all(b"0123456789").unwrap();
    ingest.keep();
    assert_eq!(node.store.writer(NS, "s", Expected { digest: None, size: Some(4) }).unwrap().offset(), 0);
}

#[test]
fn truncating_rehashes_what_stays() {
    let node = node("content-truncate");
    let mut ingest = node.store.writer(NS, "r", expect("hello")).unwrap();
    ingest.write_all(b"heXX").unwrap();
    assert_eq!(ingest.truncate(9).unwrap_err().kind(), Kind::OutOfRange);
    ingest.truncate(2).unwrap();
    assert_eq!(ingest.offset(), 2);
    ingest.write_all(b"llo").unwrap();
    assert_eq!(ingest.commit(Labels::new()).unwrap(), Digest::of("hello"));
}

#[test]
fn one_writer_a_reference_and_dropping_leaves_nothing() {
    let node = node("content-one");
    let ingest = node.store.writer(NS, "r", expect("hello")).unwrap();
    assert_eq!(node.store.writer(NS, "r", expect("hello")).err().unwrap().kind(), Kind::Unavailable);
    assert_eq!(node.store.abort(NS, "r").unwrap_err().kind(), Kind::Unavailable);
    node.store.writer("other", "r", expect("hello")).unwrap();
    drop(ingest);
    assert_eq!(node.ingest_dirs(), 0);
    node.store.writer(NS, "r", expect("hello")).unwrap().keep();
    node.store.abort(NS, "r").unwrap();
    assert!(node.store.abort(NS, "r").unwrap_err().is_not_found());
}

#[test]
fn racing_writers_of_one_reference_and_of_one_blob_end_with_one_blob() {
    let node = node("content-race");
    let text = "x".repeat(300_000);
    let write = |reference: &str| {
        let mut ingest = node.store.writer(NS, reference, expect(&text))?;
        ingest.write_all(text.as_bytes()).unwrap();
        ingest.commit(Labels::new())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || write(["same", "other", "third"][i % 3]))).collect();
        for thread in threads {
            match thread.join().unwrap() {
                Ok(digest) => assert_eq!(digest, Digest::of(&text)),
                Err(e) => assert!(matches!(e.kind(), Kind::Unavailable | Kind::AlreadyExists), "{e:?}"),
            }
        }
    });
    assert_eq!(node.store.list(NS).unwrap().len(), 1);
    assert_eq!(node.store.read(NS, &Digest::of(&text), 1 << 20).unwrap().len(), text.len());
    assert_eq!(node.ingest_dirs(), 0);
}

#[test]
fn a_namespace_gets_the_bytes_of_another_without_a_transfer() {
    let node = node("content-shared");
    let digest = node.put("hello");
    assert!(node.store.info("other", &digest).unwrap_err().is_not_found());
    assert!(node.store.open_blob("other", &digest).unwrap_err().is_not_found());
    let wrong = Expected { digest: Some(digest.clone()), size: Some(9) };
    assert_eq!(node.store.writer("other", "r", wrong).err().unwrap().kind(), Kind::FailedPrecondition);
    for _ in 0..2 {
        assert_eq!(node.store.writer("other", "r", expect("hello")).err().unwrap().kind(), Kind::AlreadyExists);
    }
    assert_eq!(node.store.read("other", &digest, 5).unwrap(), b"hello");
    node.store.delete(NS, &digest).unwrap();
    assert!(node.store.delete(NS, &digest).unwrap_err().is_not_found());
    assert_eq!(node.store.read("other", &digest, 5).unwrap(), b"hello");
}

/// kill -9 in the middle of writing, and between the rename and the record.
#[test]
fn what_a_killed_daemon_was_writing_is_cleaned_at_the_start() {
    let node = node("content-killed");
    let mut ingest = node.store.writer(NS, "half", expect("hello")).unwrap();
    ingest.write_all(b"hel").unwrap();
    std::mem::forget(ingest);
    let mut ingest = node.store.writer(NS, "client", Expected::default()).unwrap();
    ingest.write_all(b"slow").unwrap();
    std::mem::forget(ingest);
    let mut ingest = node.store.writer(NS, "renamed", expect("moved")).unwrap();
    ingest.write_all(b"moved").unwrap();
    let moved = Digest::of("moved");
    let data = node.dir.path().join("content/ingest").join(Digest::of("n/renamed").hex()).join("data");
    std::fs::rename(data, node.dir.path().join("content/blobs/sha256").join(moved.hex())).unwrap();
    std::mem::forget(ingest);
    std::fs::create_dir(node.dir.path().join("content/ingest/torn")).unwrap();
    let leases = Leases::new(node.db.clone());
    leases.create(NS, "l", Labels::new()).unwrap();
    leases.add(NS, "l", Resource::Ingest("client".into())).unwrap();

    // The forgotten writers hold the database's handle: a copy stands in for the restart.
    let store = Store::open(&node.dir.path().join("content"), node.db.clone()).unwrap();
    assert_eq!(store.clean_stale_ingests().unwrap(), 3);
    let left: Vec<_> = store.ingests(NS).unwrap().into_iter().map(|i| (i.reference, i.offset)).collect();
    assert_eq!(left, [("client".to_owned(), 4)]);
    assert!(store.list(NS).unwrap().is_empty());
    // The bytes that had their name already are taken as they are.
    assert_eq!(store.writer(NS, "renamed", expect("moved")).err().unwrap().kind(), Kind::AlreadyExists);
    assert_eq!(store.read(NS, &moved, 5).unwrap(), b"moved");
}

#[test]
fn a_damaged_blob_is_told_and_can_be_fetched_again() {
    let node = node("content-damaged");
    let digest = node.put("hello");
    let file = node.dir.path().join("content/blobs/sha256").join(digest.hex());
    for damage in [&b"jello"[..], b""] {
        std::fs::write(&file, damage).unwrap();
        assert_eq!(node.store.read(NS, &digest, 5).unwrap_err().kind(), Kind::DataLoss);
        // What is of the right length is found out by reading; the wrong length by the writer itself.
        let mut ingest = node.store.writer(NS, "again", Expected { digest: Some(digest.clone()), size: None }).unwrap();
        ingest.write_all(b"hello").unwrap();
        ingest.commit(Labels::new()).unwrap();
        assert_eq!(node.store.read(NS, &digest, 5).unwrap(), b"hello");
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(node.store.open_blob(NS, &digest).unwrap_err().kind(), Kind::DataLoss);
}

#[test]
fn read_is_bounded_and_labels_merge() {
    let node = node("content-labels");
    let digest = node.put("hello");
    assert_eq!(node.store.read(NS, &digest, 4).unwrap_err().kind(), Kind::ResourceExhausted);
    node.store.set_labels(NS, &digest, Labels::from([("a".into(), "1".into()), ("b".into(), "2".into())])).unwrap();
    let info = node.store.set_labels(NS, &digest, Labels::from([("a".into(), String::new())])).unwrap();
    assert_eq!(info.labels, Labels::from([("b".into(), "2".into())]));
    assert!(node.store.set_labels("other", &digest, Labels::new()).unwrap_err().is_not_found());
}
