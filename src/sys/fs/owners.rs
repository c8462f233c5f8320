//! Owners of a whole tree moved into a user namespace's range: for file systems that cannot show them mapped.
use super::{Metadata, Node, Step, open_dir, walk};
use crate::sys::userns::{IdMap, outside};
use rustix::fs::{FileType, Stat};
use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::path::Path;

/// What an owner gets that the namespace does not know: the kernel shows such owners as this one too.
const NOBODY: u32 = 65_534;
const CAPABILITIES: &CStr = c"security.capability";
/// Bits of the first word of file capabilities (linux/capability.h): the revision, and that with a user namespace's root.
const REVISION: u32 = 0xff00_0000;
const WITH_ROOT: u32 = 0x0300_0000;
/// Bytes before the root's ID.
const WITHOUT_ROOT: usize = 20;

/// Gives everything in `root`, and it itself, to the IDs of `map`. Links are changed themselves, never what they lead to, and mounts
/// below are an error. Setuid bits and file capabilities are kept, the latter as those of the namespace's root.
pub fn shift_owners(root: &Path, map: &IdMap) -> io::Result<()> {
    let top = open_dir(root)?;
    // A file of several names is moved once. By its inode its owner is known, not that it is done: on an overlay the first name's
    // change takes it off the others.
    let mut moved: HashMap<(u64, u64), (u32, u32)> = HashMap::new();
    walk(top.try_clone()?, &mut |step| match step {
        Step::File { parent, name, .. } => {
            let node = Node::place(parent, name.to_bytes())?;
            let stat = node.stat()?;
            let wanted = mapped(&stat, map);
            if stat.st_nlink == 1 {
                return give(&node, wanted, map);
            }
            let wanted = *moved.entry((stat.st_dev, stat.st_ino)).or_insert(wanted);
            if (stat.st_uid, stat.st_gid) == wanted { Ok(()) } else { give(&node, wanted, map) }
        }
        Step::Enter { .. } => Ok(()),
        Step::Leave { dir, .. } => {
            let node = Node::Open(dir.try_clone_to_owned()?);
            give(&node, mapped(&node.stat()?, map), map)
        }
    })?;
    let top = Node::Open(top);
    give(&top, mapped(&top.stat()?, map), map)
}

fn mapped(stat: &Stat, map: &IdMap) -> (u32, u32) {
    (outside(&map.uids, stat.st_uid).unwrap_or(NOBODY), outside(&map.gids, stat.st_gid).unwrap_or(NOBODY))
}

fn give(node: &Node, (uid, gid): (u32, u32), map: &IdMap) -> io::Result<()> {
    let stat = node.stat()?;
    let old = Metadata::of(&stat);
    let kind = FileType::from_raw_mode(stat.st_mode);
    let capabilities = if kind == FileType::RegularFile { node.xattr(CAPABILITIES)? } else { None };
    node.set_owner(uid, gid)?;
    if kind != FileType::Symlink && old.mode & 0o7000 != 0 {
        node.set_mode(old.mode)?;
    }
    if let Some(value) = capabilities.and_then(|value| of_root(value, map)) {
        node.set_xattr(CAPABILITIES, &value)?;
    }
    Ok(())
}

/// Capabilities as a file of the namespace has them: they count where its root is root.
fn of_root(mut value: Vec<u8>, map: &IdMap) -> Option<Vec<u8>> {
    let (root, _) = map.root()?;
    let first = u32::from_le_bytes(value.get(..4)?.try_into().ok()?);
    if value.len() < WITHOUT_ROOT {
        return None;
    }
    value.truncate(WITHOUT_ROOT);
    value[..4].copy_from_slice(&((first & !REVISION) | WITH_ROOT).to_le_bytes());
    value.extend(root.to_le_bytes());
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;
    use crate::sys::userns::IdRange;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    #[test]
    fn a_tree_is_moved_whole_and_nothing_beyond_its_links() {
        let scratch = Scratch::new("owners");
        let (root, out) = (scratch.dir("root"), scratch.dir("out"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/suid"), "").unwrap();
        chown(root.join("a/suid"), Some(3), Some(4)).unwrap();
        std::fs::set_permissions(root.join("a/suid"), std::fs::Permissions::from_mode(0o4755)).unwrap();
        std::fs::hard_link(root.join("a/suid"), root.join("again")).unwrap();
        std::fs::write(root.join("odd"), "").unwrap();
        chown(root.join("odd"), Some(70_000), Some(0)).unwrap();
        std::fs::write(root.join("able"), "").unwrap();
        let able = Node::place(open_dir(&root).unwrap(), b"able").unwrap();
        let mut v2 = 0x0200_0001u32.to_le_bytes().to_vec();
        v2.extend([0x00, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        able.set_xattr(CAPABILITIES, &v2).unwrap();
        symlink(&out, root.join("link")).unwrap();
        let ranges = |outside| vec![IdRange { inside: 0, outside, count: 1000 }];
        shift_owners(&root, &IdMap { uids: ranges(100_000), gids: ranges(200_000) }).unwrap();
        let of = |path: &Path| {
            let m = std::fs::symlink_metadata(path).unwrap();
            (m.uid(), m.gid(), m.mode() & 0o7777)
        };
        assert_eq!(of(&root.join("again")), (100_003, 200_004, 0o4755));
        assert_eq!(of(&root.join("a/b")), (100_000, 200_000, 0o755));
        assert_eq!(of(&root), (100_000, 200_000, 0o755));
        assert_eq!(of(&root.join("odd")).0, NOBODY);
        assert_eq!((of(&root.join("link")).0, of(&out).0), (100_000, 0));
        let v3 = able.xattr(CAPABILITIES).unwrap().unwrap();
        assert_eq!((v3.len(), &v3[4..20], &v3[20..]), (24, &v2[4..20], &100_000u32.to_le_bytes()[..]));
    }
}
