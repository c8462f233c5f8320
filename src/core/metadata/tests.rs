//! Tests of the metadata store.
use super::*;
use serde::Deserialize;

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
struct Note {
    text: String,
}
impl Record for Note {
    const TABLE: &'static str = "notes";
}
fn note(text: &str) -> Note {
    Note { text: text.into() }
}

#[test]
fn a_namespace_sees_only_its_records_and_what_is_written_survives() {
    let dir = super::scratch::dir("meta-ns");
    {
        let db = Db::open(dir.path()).unwrap();
        assert_eq!(db.read(|r| r.get::<Note>("a", "1")).unwrap(), None);
        db.write(|w| {
            w.put("a", "1", &note("one"))?;
            w.put("a", "2", &note("two"))?;
            w.put("ab", "1", &note("other"))
        })
        .unwrap();
    }
    let db = Db::open(dir.path()).unwrap();
    let listed = db.read(|r| r.list::<Note>("a")).unwrap();
    assert_eq!(listed, [("1".into(), note("one")), ("2".into(), note("two"))]);
    assert_eq!(db.read(|r| r.list_all::<Note>()).unwrap().len(), 3);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(dir.path().join(FILE)).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_error_rolls_back_all_of_a_write() {
    let dir = super::scratch::dir("meta-rollback");
    let db = Db::open(dir.path()).unwrap();
    db.write(|w| w.put("n", "old", &note("stays"))).unwrap();
    let failed: Result<()> = db.write(|w| {
        w.put("n", "new", &note("goes"))?;
        w.remove::<Note>("n", "old")?;
        Err(Error::internal("for the test"))
    });
    assert!(failed.is_err());
    assert_eq!(db.read(|r| r.list::<Note>("n")).unwrap(), [("old".into(), note("stays"))]);
}

#[test]
fn a_bad_record_is_skipped_by_lists_and_told_by_get() {
    let dir = super::scratch::dir("meta-bad");
    let db = Db::open(dir.path()).unwrap();
    db.write(|w| {
        w.put("n", "good", &note("fine"))?;
        w.put_raw::<Note>("n", "bad", b"{\"text\": 7}");
        Ok(())
    })
    .unwrap();
    assert_eq!(db.read(|r| r.list::<Note>("n")).unwrap().len(), 1);
    assert_eq!(db.read(|r| r.scan::<Note>()).unwrap().bad, [("n".into(), "bad".into())]);
    let error = db.read(|r| r.get::<Note>("n", "bad")).unwrap_err();
    assert_eq!(error.kind(), Kind::DataLoss);
    assert!(error.chain().contains("notes/n/bad"), "{}", error.chain());
    assert!(db.write(|w| w.remove::<Note>("n", "bad")).unwrap());
}

#[test]
fn a_second_daemon_is_told_that_the_store_is_in_use() {
    let dir = super::scratch::dir("meta-twice");
    let _db = Db::open(dir.path()).unwrap();
    let error = Db::open(dir.path()).err().unwrap();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.chain().contains("in use"), "{}", error.chain());
}

#[test]
fn a_damaged_file_is_an_error_and_no_panic() {
    let dir = super::scratch::dir("meta-damaged");
    fs::write(dir.path().join(FILE), vec![7u8; 65_536]).unwrap();
    let error = Db::open(dir.path()).err().unwrap();
    assert!(error.chain().contains(FILE), "{}", error.chain());
    assert_eq!(error.kind(), Kind::DataLoss, "{error:?}");
}

/// A full disk must not leave the daemon without its store once there is space again.
#[test]
fn a_full_disk_fails_one_write_and_heals() {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let dir = super::scratch::dir("meta-full");
    let at = dir.path().join("small");
    fs::create_dir(&at).unwrap();
    if mount("tmpfs", &at, "tmpfs", MountFlags::empty(), Some(c"size=4m")).is_err() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let db = Db::open(&at).unwrap();
    db.write(|w| w.put("n", "first", &note("kept"))).unwrap();
    fs::write(at.join("filler"), vec![0u8; 8 << 20]).unwrap_err();
    let big = "x".repeat(1 << 20);
    let failed = (0..8).find_map(|i| db.write(|w| w.put("n", &i.to_string(), &note(&big))).err()).unwrap();
    assert_eq!(failed.kind(), Kind::ResourceExhausted, "{failed:?}");
    fs::remove_file(at.join("filler")).unwrap();
    assert_eq!(db.read(|r| r.get::<Note>("n", "first")).unwrap(), Some(note("kept")));
    db.write(|w| w.put("n", "again", &note("works"))).unwrap();
    drop(db);
    unmount(&at, UnmountFlags::empty()).unwrap();
}
