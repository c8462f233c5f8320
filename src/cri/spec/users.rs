//! Users: who a container's process is. The image's passwd and group are read as a stranger's: inside the root, regular, bounded.
use super::ContainerInput;
use crate::error::{Context, Error, Result};
use crate::proto::cri::SupplementalGroupsPolicy;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// More than any image has; a file of a hostile image may be sparse and huge.
const LARGEST: u64 = 1 << 20;

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// Looks up the user that the request, or else the image, names.
pub fn identity(input: &ContainerInput<'_>) -> Result<Identity> {
    let context = input.config.linux.get_or_default().security_context.get_or_default();
    let image_user = input.image.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default();
    let (user, image_group) = match (context.run_as_user.as_ref(), context.run_as_username.as_str()) {
        (_, name) if !name.is_empty() => (name.to_string(), None),
        (Some(id), _) => (id.value.to_string(), None),
        (None, _) => match image_user.split_once(':') {
            Some((user, group)) => (user.to_string(), Some(group.to_string())),
            None => (image_user, None),
        },
    };
    let group = context.run_as_group.as_ref().map(|g| g.value.to_string()).or(image_group).filter(|g| !g.is_empty());
    let entry = find(input.rootfs, if user.is_empty() { "0" } else { &user })?;
    let gid = match group {
        Some(group) => group_id(input.rootfs, &group)?,
        None => entry.gid,
    };
    let mut groups = vec![gid];
    if context.supplemental_groups_policy.enum_value() == Ok(SupplementalGroupsPolicy::Merge) && !entry.name.is_empty() {
        groups.extend(groups_of(input.rootfs, &entry.name)?);
    }
    for id in &context.supplemental_groups {
        groups.push(number("supplemental_groups", *id)?);
    }
    let mut seen = std::collections::HashSet::new();
    groups.retain(|g| seen.insert(*g));
    Ok(Identity { uid: entry.uid, gid, groups, home: entry.home })
}

/// User and group that an image's `user[:group]` names.
pub fn of_image(root: &Path, named: &str) -> Result<(u32, u32)> {
    let (user, group) = named.split_once(':').map_or((named, None), |(user, group)| (user, Some(group)));
    let entry = find(root, user)?;
    let gid = group.filter(|g| !g.is_empty()).map_or(Ok(entry.gid), |g| group_id(root, g))?;
    Ok((entry.uid, gid))
}

/// An ID as the kernel and every runtime take it.
pub fn number(field: &str, id: i64) -> Result<u32> {
    let fits = i32::try_from(id).ok().and_then(|id| u32::try_from(id).ok());
    fits.ok_or_else(|| Error::invalid(format!("{field}: {id} is not between 0 and {}", i32::MAX)))
}

/// A number of any length is a number: it never becomes a name that the image may define.
fn numeric(field: &str, text: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse::<i64>().map_err(|_| Error::invalid(format!("{field}: {text} is not between 0 and {}", i32::MAX)))?;
    number(field, id).map(Some)
}

fn find(root: &Path, user: &str) -> Result<Entry> {
    let id = numeric("user", user)?;
    let passwd = read(root, "etc/passwd")?.unwrap_or_default();
    let mut entries = passwd.lines().filter_map(passwd_entry);
    match id {
        Some(uid) => {
            let unknown = Entry { name: String::new(), uid, gid: 0, home: "/".into() };
            Ok(entries.find(|e| e.uid == uid).unwrap_or(unknown))
        }
        None => entries
            .find(|e| e.name == user)
            .ok_or_else(|| Error::invalid(format!("user \"{user}\" is not in the image's /etc/passwd: name one that is, or a number"))),
    }
}

fn passwd_entry(line: &str) -> Option<Entry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?.to_string();
    let uid = id(fields.nth(1)?)?;
    let gid = id(fields.next()?)?;
    let home = fields.nth(1).filter(|h| h.starts_with('/')).unwrap_or("/").to_string();
    Some(Entry { name, uid, gid, home })
}

fn id(text: &str) -> Option<u32> {
    text.parse::<u32>().ok().filter(|id| i32::try_from(*id).is_ok())
}

fn group_id(root: &Path, group: &str) -> Result<u32> {
    if let Some(gid) = numeric("group", group)? {
        return Ok(gid);
    }
    let text = read(root, "etc/group")?.unwrap_or_default();
    let found = text.lines().filter_map(group_entry).find(|(name, ..)| *name == group).map(|(_, gid, _)| gid);
    found.ok_or_else(|| Error::invalid(format!("group \"{group}\" is not in the image's /etc/group: name one that is, or a number")))
}

fn groups_of(root: &Path, user: &str) -> Result<Vec<u32>> {
    let text = read(root, "etc/group")?.unwrap_or_default();
    let entries = text.lines().filter_map(group_entry);
    Ok(entries.filter(|(.., members)| members.split(',').any(|m| m == user)).map(|(_, gid, _)| gid).collect())
}

fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|n| !n.is_empty())?;
    let gid = id(fields.nth(1)?)?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

/// A text of the image; none if it is not there.
fn read(root: &Path, name: &str) -> Result<Option<String>> {
    let shown = || format!("read /{name} of the image");
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during(shown)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // A place only: opening a FIFO or a device for reading could block or do things.
    let place = loop {
        match rustix::fs::openat2(&root, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => break other.during(shown)?,
        }
    };
    let stat = rustix::fs::fstat(&place).during(shown)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::precondition(format!("/{name} of the image is not a regular file")));
    }
    let again = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place)));
    let file = rustix::fs::openat(CWD, &again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during(shown)?;
    let mut bytes = Vec::new();
    File::from(file).take(LARGEST + 1).read_to_end(&mut bytes).during(shown)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::precondition(format!("/{name} of the image is larger than {LARGEST} bytes")));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, fixture};
    use super::super::host::Host;
    use super::*;
    use crate::proto::cri::Int64Value;
    use protobuf::MessageField;

    const PASSWD: &str =
        "root:x:0:0::/root:/bin/sh\nu:x:1000:1001::/home/u:/bin/sh\n4294967296:x:0:0::/:/bin/sh\nwrap:x:4294967296:0::/:\n";
    const GROUP: &str = "root:x:0:\nu:x:1001:\nextra:x:1002:a,u\nwheel:x:10:root\n";

    fn with_image_user(user: &str) -> Fixture {
        let mut f = fixture(Host::for_tests());
        let mut config = oci_spec::image::Config::default();
        config.set_user(Some(user.into()));
        f.image.set_config(Some(config));
        f.config.command = vec!["sh".into()];
        std::fs::write(f.scratch.path.join("root/etc/passwd"), PASSWD).unwrap();
        std::fs::write(f.scratch.path.join("root/etc/group"), GROUP).unwrap();
        f
    }

    #[test]
    fn image_user() {
        type Expected = Option<(u32, u32, &'static [u32])>;
        let table: &[(&str, Expected)] = &[
            ("", Some((0, 0, &[0, 10]))),
            ("0", Some((0, 0, &[0, 10]))),
            ("u", Some((1000, 1001, &[1001, 1002]))),
            ("1000", Some((1000, 1001, &[1001, 1002]))),
            ("1000:extra", Some((1000, 1002, &[1002]))),
            ("u:5", Some((1000, 5, &[5, 1002]))),
            ("77", Some((77, 0, &[0]))),
            ("2147483647:2147483647", Some((i32::MAX as u32, i32::MAX as u32, &[i32::MAX as u32]))),
            // CVE-2024-40635, CVE-2026-46680: neither wraps, nor is looked up as a name.
            ("2147483648", None),
            ("4294967296", None),
            ("4294967296:0", None),
            ("0:4294967296", None),
            ("99999999999999999999999", None),
            ("-1", None),
            ("wrap", None),
            ("nobody", None),
            ("u:nogroup", None),
        ];
        for (user, expected) in table {
            let got = with_image_user(user).build(1).map(|b| b.user).ok();
            assert_eq!(got, expected.map(|(u, g, all)| (u, g, all.to_vec())), "{user}");
        }
    }

    #[test]
    fn request_wins_and_strict_leaves_the_image_s_groups_out() {
        let mut f = with_image_user("nobody");
        f.context().run_as_username = "u".into();
        f.context().run_as_group = MessageField::some(Int64Value { value: 7, ..Int64Value::default() });
        f.context().supplemental_groups = vec![7, 8];
        assert_eq!(f.build(1).unwrap().user, (1000, 7, vec![7, 1002, 8]));
        f.context().supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
        assert_eq!(f.build(1).unwrap().user, (1000, 7, vec![7, 8]));
        f.context().supplemental_groups = vec![1 << 31];
        assert!(f.build(1).is_err());
    }

    #[test]
    fn hostile_files() {
        let f = with_image_user("u");
        let passwd = f.scratch.path.join("root/etc/passwd");
        let refused = |why: &str| {
            let text = f.build(1).unwrap_err().chain();
            assert!(text.contains(why), "{text}");
            std::fs::remove_file(&passwd).unwrap();
        };
        std::fs::File::create(&passwd).unwrap().set_len(4 << 30).unwrap();
        refused("larger than");
        rustix::fs::mknodat(CWD, &passwd, FileType::Fifo, Mode::RUSR, 0).unwrap();
        refused("not a regular file");
        // A link stays inside the image's root, where there is no such file.
        std::os::unix::fs::symlink("/dev/zero", &passwd).unwrap();
        refused("is not in the image's");
        std::os::unix::fs::symlink("/proc/self/mem", &passwd).unwrap();
        refused("is not in the image's");
    }
}
