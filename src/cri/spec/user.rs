//! Who a process runs as: USER forms and CRI's fields against the image's own passwd and group files.
//!
//! Those files are the image's word: they are opened beneath the root, regular files of bounded size only, and a number that
//! does not fit never becomes another one (CVE-2024-40635, CVE-2026-46680, CVE-2026-47262).
use super::oci::User;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::cri;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// Largest passwd or group file that is read.
const LIMIT: u64 = 4 << 20;
/// Largest id that runc takes.
const MAX: i64 = i32::MAX as i64;

/// What decides the identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `user[:group]`, empty for root.
    pub user: String,
    /// Groups on top.
    pub supplemental: Vec<i64>,
    /// The groups that the image gives the user count too.
    pub image_groups: ImageGroups,
}

/// Whether group membership in the image counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageGroups {
    /// Policy Merge.
    #[default]
    Merged,
    /// Policy Strict.
    Ignored,
}

/// The user string of the request: username, else uid, each with an optional gid; a gid alone is an error.
pub fn user_string(username: &str, uid: Option<i64>, gid: Option<i64>) -> Result<String> {
    let field = "linux.security_context";
    for (value, name) in [(uid, "run_as_user"), (gid, "run_as_group")] {
        if value.is_some_and(|v| !(0..=MAX).contains(&v)) {
            return Err(Error::invalid(format!("{field}.{name}: {} is not in 0..={MAX}", value.unwrap_or(0))));
        }
    }
    if username.contains([':', '\n', '\r', '\0']) {
        return Err(Error::invalid(format!("{field}.run_as_username: {username:?} is not a user name")));
    }
    let user = if username.is_empty() { uid.map(|u| u.to_string()).unwrap_or_default() } else { username.to_owned() };
    match gid {
        Some(_) if user.is_empty() => Err(Error::invalid(format!("{field}.run_as_group: given without run_as_user or run_as_username"))),
        Some(gid) => Ok(format!("{user}:{gid}")),
        None => Ok(user),
    }
}

/// Refuses groups that do not fit and policies that we do not know.
pub fn check_groups(groups: &[i64], policy: i32) -> Result<()> {
    if let Some(bad) = groups.iter().find(|g| !(0..=MAX).contains(*g)) {
        return Err(Error::invalid(format!("linux.security_context.supplemental_groups: {bad} is not in 0..={MAX}")));
    }
    if policy != cri::SupplementalGroupsPolicy::Merge as i32 && policy != cri::SupplementalGroupsPolicy::Strict as i32 {
        return Err(Error::invalid(format!("linux.security_context.supplemental_groups_policy: unknown value {policy}")));
    }
    Ok(())
}

/// Looks the identity up. `root` is the container's root filesystem; without one only numbers work.
pub fn resolve(wanted: &Wanted, root: Option<&Path>) -> Result<User> {
    let image = Image { root: root.map(open_root).transpose()? };
    let (user, group) = match wanted.user.split_once(':') {
        Some((u, g)) if !g.contains(':') => (u, Some(g)),
        Some(_) => return Err(Error::invalid(format!("user {:?}: more than one colon", wanted.user))),
        None => (wanted.user.as_str(), None),
    };
    let number = id(user, &wanted.user)?;
    let mut found = User { uid: number.unwrap_or(0), ..User::default() };
    let entry = match (number, group) {
        // `uid:group` needs no entry.
        (Some(_), Some(_)) => None,
        (Some(uid), None) => image.passwd(|e| e.uid == uid.to_string())?,
        (None, _) if user.is_empty() => None,
        (None, _) => Some(
            image
                .passwd(|e| e.name == user)?
                .ok_or_else(|| Error::invalid(format!("user {user:?}: no such user in the image's /etc/passwd")))?,
        ),
    };
    if let Some(entry) = &entry {
        found.uid = entry_id(&entry.uid, "/etc/passwd", &entry.name)?;
        found.gid = entry_id(&entry.gid, "/etc/passwd", &entry.name)?;
    }
    if let Some(group) = group {
        found.gid = match id(group, &wanted.user)? {
            Some(gid) => gid,
            None => image.group_id(group)?,
        };
    }
    let mut groups: BTreeSet<u32> = wanted.supplemental.iter().filter_map(|g| u32::try_from(*g).ok()).collect();
    if !wanted.user.is_empty() || wanted.image_groups == ImageGroups::Merged {
        groups.insert(found.gid);
    }
    if wanted.image_groups == ImageGroups::Merged {
        // By name where one is given: two names may share a uid.
        let name = match (entry, number) {
            (Some(entry), _) => Some(entry.name),
            (None, Some(uid)) => image.passwd(|e| e.uid == uid.to_string())?.map(|e| e.name),
            (None, None) => image.passwd(|e| e.uid == "0")?.map(|e| e.name),
        };
        if let Some(name) = name {
            groups.extend(image.groups_of(&name)?);
        }
    }
    found.additional_gids = groups.into_iter().collect();
    Ok(found)
}

/// A number, or `None` for a name. What looks like a number but does not fit is an error, never a name.
fn id(text: &str, whole: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(n) if (0..=MAX).contains(&n) => Ok(Some(n as u32)),
        _ => Err(Error::invalid(format!("user {whole:?}: {text} is not in 0..={MAX}"))),
    }
}

fn entry_id(text: &str, file: &str, name: &str) -> Result<u32> {
    id(text, name)?.ok_or_else(|| Error::invalid(format!("the image's {file}: id {text:?} of {name:?} is not a number")))
}

struct Entry {
    name: String,
    uid: String,
    gid: String,
}

struct Image {
    root: Option<OwnedFd>,
}

impl Image {
    fn passwd(&self, wanted: impl Fn(&Entry) -> bool) -> Result<Option<Entry>> {
        let text = self.read("etc/passwd")?;
        Ok(lines(&text)
            .filter_map(|line| {
                let mut f = line.split(':');
                let (name, _, uid, gid) = (f.next()?, f.next()?, f.next()?, f.next()?);
                Some(Entry { name: name.to_owned(), uid: canonical(uid), gid: canonical(gid) })
            })
            .find(wanted))
    }

    fn group_id(&self, group: &str) -> Result<u32> {
        let text = self.read("etc/group")?;
        let line = lines(&text).find(|l| l.split(':').next() == Some(group));
        let gid = line.and_then(|l| l.split(':').nth(2));
        let gid = gid.ok_or_else(|| Error::invalid(format!("group {group:?}: no such group in the image's /etc/group")))?;
        entry_id(gid, "/etc/group", group)
    }

    /// Groups that list `user`; its own group of the same name is no supplementary one.
    fn groups_of(&self, user: &str) -> Result<Vec<u32>> {
        let text = self.read("etc/group")?;
        let mut found = Vec::new();
        for line in lines(&text) {
            let f: Vec<&str> = line.splitn(4, ':').collect();
            let [name, _, gid, members] = f[..] else { continue };
            if name != user && members.split(',').any(|m| m.trim() == user) {
                found.push(entry_id(gid, "/etc/group", name)?);
            }
        }
        Ok(found)
    }

    /// The file's text, empty if there is none.
    fn read(&self, path: &str) -> Result<String> {
        let Some(root) = &self.root else { return Ok(String::new()) };
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // O_PATH first: opening a FIFO or a device for reading may block or act.
        let seen = match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
            Err(e) => return Err(e).during(|| format!("open the image's /{path}")),
        };
        let stat = rustix::fs::fstat(&seen).during(|| format!("stat the image's /{path}"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(Kind::FailedPrecondition, format!("the image's /{path} is not a regular file")));
        }
        if stat.st_size as u64 > LIMIT {
            return Err(too_large(path));
        }
        let again = format!("/proc/self/fd/{}", seen.as_fd().as_raw_fd());
        let file = File::open(again).during(|| format!("open the image's /{path}"))?;
        let mut bytes = Vec::with_capacity(stat.st_size as usize);
        file.take(LIMIT + 1).read_to_end(&mut bytes).during(|| format!("read the image's /{path}"))?;
        if bytes.len() as u64 > LIMIT {
            return Err(too_large(path));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn open_root(root: &Path) -> Result<OwnedFd> {
    rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .during(|| format!("open root filesystem {}", root.display()))
}

fn too_large(path: &str) -> Error {
    Error::new(Kind::FailedPrecondition, format!("the image's /{path} is larger than {LIMIT} bytes"))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'))
}

/// `007` is 7; what is no number stays as it is and is refused where it is used.
fn canonical(id: &str) -> String {
    match id.bytes().all(|b| b.is_ascii_digit()).then(|| id.parse::<u64>()) {
        Some(Ok(n)) => n.to_string(),
        _ => id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    struct Root(PathBuf);
    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn root(name: &str, passwd: &str, group: &str) -> Root {
        let dir = std::env::temp_dir().join(format!("cradle-spec-user-{}-{name}", std::process::id()));
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::write(dir.join("etc/passwd"), passwd).unwrap();
        fs::write(dir.join("etc/group"), group).unwrap();
        Root(dir)
    }

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n# note\n4294967296:x:0:0::/:/bin/sh\nbig:x:4294967296:0::/:/bin/sh\nneg:x:-1:0::/:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,web\nweb:x:1001:web\ndocker:x:50:web\nbad:x:9999999999:nobody\n";

    fn look(root: &Root, user: &str) -> Result<(u32, u32, Vec<u32>)> {
        let user = resolve(&Wanted { user: user.into(), ..Wanted::default() }, Some(&root.0))?;
        Ok((user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn every_form_of_user() {
        let r = root("forms", PASSWD, GROUP);
        let table = [
            ("", (0, 0, vec![0, 10])),
            ("0", (0, 0, vec![0, 10])),
            ("root", (0, 0, vec![0, 10])),
            ("web", (1000, 1001, vec![10, 50, 1001])),
            ("1000", (1000, 1001, vec![10, 50, 1001])),
            ("1000:7", (1000, 7, vec![7, 10, 50])),
            ("web:docker", (1000, 50, vec![10, 50])),
            ("1000:docker", (1000, 50, vec![10, 50])),
            ("web:7", (1000, 7, vec![7, 10, 50])),
            ("5000", (5000, 0, vec![0])),
            ("2147483647", (2147483647, 0, vec![0])),
        ];
        for (user, want) in table {
            assert_eq!(look(&r, user).unwrap(), want, "{user:?}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_and_never_names() {
        let r = root("range", PASSWD, GROUP);
        for user in [
            "4294967296",
            "2147483648",
            "-1",
            "99999999999999999999999",
            "0:2147483648",
            "1:-5",
            "big",
            "neg",
            "a:b:c",
            "nobody",
            "web:nogroup",
        ] {
            assert_eq!(look(&r, user).unwrap_err().kind(), Kind::InvalidArgument, "{user:?}");
        }
    }

    #[test]
    fn strict_policy_takes_only_the_list_and_the_primary_group() {
        let r = root("strict", PASSWD, GROUP);
        let wanted = Wanted { user: "web".into(), supplemental: vec![77, 5], image_groups: ImageGroups::Ignored };
        assert_eq!(resolve(&wanted, Some(&r.0)).unwrap().additional_gids, [5, 77, 1001]);
    }

    #[test]
    fn files_are_regular_bounded_and_beneath_the_root() {
        let r = root("files", PASSWD, GROUP);
        let group = r.0.join("etc/group");
        fs::remove_file(&group).unwrap();
        File::create(&group).unwrap().set_len(4 << 30).unwrap();
        assert!(look(&r, "web").unwrap_err().chain().contains("larger"));
        fs::remove_file(&group).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &group, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        assert!(look(&r, "web").unwrap_err().chain().contains("regular"));
        fs::remove_file(&group).unwrap();
        std::os::unix::fs::symlink("/../../../../../../etc/group", &group).unwrap();
        // The link is looked up inside, where it leads to itself.
        assert!(look(&r, "web").is_err());
        fs::remove_file(&group).unwrap();
        std::os::unix::fs::symlink("/proc/self/fd/0", &group).unwrap();
        assert_eq!(look(&r, "web").unwrap(), (1000, 1001, vec![1001]));
    }

    #[test]
    fn request_fields_make_the_string() {
        assert_eq!(user_string("", None, None).unwrap(), "");
        assert_eq!(user_string("web", Some(5), Some(6)).unwrap(), "web:6");
        assert_eq!(user_string("", Some(5), None).unwrap(), "5");
        assert!(user_string("", None, Some(6)).unwrap_err().chain().contains("run_as_group"));
        assert!(user_string("", Some(1 << 31), None).unwrap_err().chain().contains("run_as_user"));
        assert!(user_string("", Some(-1), None).is_err());
        check_groups(&[1, 2], 1).unwrap();
        assert!(check_groups(&[1 << 32], 0).is_err() && check_groups(&[], 2).is_err());
    }

    #[test]
    fn without_a_root_numbers_still_work() {
        let user = resolve(&Wanted { user: "65535:65535".into(), ..Wanted::default() }, None).unwrap();
        assert_eq!((user.uid, user.gid), (65535, 65535));
    }
}
