//! Mounts: the defaults, then the pod's files, the image's volumes and the request's own; the last for a place wins.
use super::{ContainerInput, Host, Volume};
use crate::error::{Context, Error, Result};
use crate::proto::cri::{Mount as Asked, MountPropagation};
use crate::sys::fs;
use oci_spec::runtime::Mount;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A spec's mount.
pub fn mount(target: impl Into<PathBuf>, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut made = Mount::default();
    made.set_destination(target.into()).set_typ(Some(kind.into())).set_source(Some(source.into()));
    made.set_options(Some(options.iter().map(|o| o.to_string()).collect()));
    made
}

/// Absolute, without `.`, `..` and doubled slashes.
pub fn clean(path: &str) -> PathBuf {
    let inside = fs::clean(path.as_bytes()).into_owned();
    Path::new("/").join(std::ffi::OsString::from_vec(inside))
}

/// The file systems that every process gets.
pub fn defaults(writable_kernel: bool) -> Vec<Mount> {
    let access = if writable_kernel { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ]
}

/// All mounts of a container, parents first, and the volumes among them.
pub fn of_container(input: &ContainerInput<'_>) -> Result<(Vec<Mount>, Vec<Volume>)> {
    let context = input.config.linux.get_or_default().security_context.get_or_default();
    let mut all = defaults(context.privileged);
    let access = if context.privileged { "rw" } else { "ro" };
    all.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]));
    all.extend(pod_files(input, context.readonly_rootfs));
    let asked: Vec<PathBuf> = input.config.mounts.iter().map(|m| clean(&m.container_path)).collect();
    let volumes = volumes(input, &asked)?;
    for volume in &volumes {
        put(&mut all, mount(&volume.container_path, "bind", &volume.host_path, &["rbind", "rprivate", "rw"]));
    }
    for (asked, target) in input.config.mounts.iter().zip(asked) {
        let own = bind(asked, target, input.host)?;
        if own.destination() == Path::new("/dev") {
            all.retain(|m| !m.destination().starts_with("/dev"));
        }
        put(&mut all, own);
    }
    all.sort_by_key(|m| m.destination().components().count());
    Ok((all, volumes))
}

fn put(all: &mut Vec<Mount>, one: Mount) {
    all.retain(|m| m.destination() != one.destination());
    all.push(one);
}

fn pod_files(input: &ContainerInput<'_>, readonly: bool) -> Vec<Mount> {
    let access = if readonly { "ro" } else { "rw" };
    let file = |name: &str| mount(Path::new("/etc").join(name), "bind", input.pod_dir.join(name), &["rbind", "rprivate", access]);
    let names = ["hostname", "hosts", "resolv.conf"];
    let mut all: Vec<Mount> = names.into_iter().filter(|name| input.pod_dir.join(name).exists()).map(file).collect();
    let shm = if input.pins.ipc.is_some() { input.pod_dir.join("shm") } else { "/dev/shm".into() };
    all.push(mount("/dev/shm", "bind", shm, &["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"]));
    all
}

/// The image's volumes that the request does not mount itself.
fn volumes(input: &ContainerInput<'_>, asked: &[PathBuf]) -> Result<Vec<Volume>> {
    let config = input.image.config().as_ref();
    let mut paths: Vec<PathBuf> = config.and_then(|c| c.volumes().as_ref()).into_iter().flatten().map(|p| clean(p)).collect();
    paths.sort();
    paths.dedup();
    paths.retain(|p| !asked.contains(p));
    if paths.iter().any(|p| p == Path::new("/")) {
        return Err(Error::precondition(format!("image {}: its volume covers the whole root", input.image_name)));
    }
    let made = paths
        .into_iter()
        .enumerate()
        .map(|(n, container_path)| Volume { host_path: input.volumes_dir.join(n.to_string()), container_path });
    Ok(made.collect())
}

fn bind(asked: &Asked, target: PathBuf, host: &Host) -> Result<Mount> {
    let source = source(&asked.host_path)?;
    let mut options = vec!["rbind"];
    let propagation = asked.propagation.enum_value_or_default();
    options.push(match propagation {
        MountPropagation::PROPAGATION_PRIVATE => "rprivate",
        MountPropagation::PROPAGATION_HOST_TO_CONTAINER => "rslave",
        MountPropagation::PROPAGATION_BIDIRECTIONAL => "rshared",
    });
    propagates(&source, propagation, host)?;
    options.push(match (asked.readonly, asked.recursive_read_only) {
        (_, true) if !host.recursive_read_only => {
            return Err(Error::precondition("RROUnsupported: mounts.recursive_read_only needs a kernel of 5.12 or newer"));
        }
        (_, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    });
    Ok(mount(target, "bind", source, &options))
}

/// Links are followed here, not by a runtime in another mount namespace. What is missing becomes a directory.
fn source(path: &str) -> Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).during(|| format!("make directory {path} for mounts.host_path"))?;
            std::fs::canonicalize(path).during(|| format!("resolve mounts.host_path {path}"))
        }
        found => found.during(|| format!("resolve mounts.host_path {path}")),
    }
}

/// Mounts come through only if the source's own mount lets them.
fn propagates(source: &Path, wish: MountPropagation, host: &Host) -> Result<()> {
    if wish == MountPropagation::PROPAGATION_PRIVATE {
        return Ok(());
    }
    let table = std::fs::read(&host.mountinfo).during(|| format!("read {}", host.mountinfo.display()))?;
    let lines = table.split(|b| *b == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let at = PathBuf::from(std::ffi::OsString::from_vec(unescape(fields.get(4)?)));
        let optional: Vec<&[u8]> = fields.get(6..)?.iter().copied().take_while(|f| *f != b"-").collect();
        source.starts_with(&at).then_some((at, optional.concat()))
    });
    // The last of those that are mounted on one place covers the others.
    let Some((at, flags)) = lines.max_by_key(|(at, _)| at.as_os_str().len()) else { return Ok(()) };
    let has = |tag: &[u8]| flags.windows(tag.len()).any(|w| w == tag);
    let (enough, needed) = match wish {
        MountPropagation::PROPAGATION_BIDIRECTIONAL => (has(b"shared:"), "shared"),
        _ => (has(b"shared:") || has(b"master:"), "shared or slave"),
    };
    if enough {
        return Ok(());
    }
    Err(Error::precondition(format!("mounts: {} is on mount {}, which is not {needed}", source.display(), at.display())))
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\').and_then(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 8).ok());
        out.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    out
}

/// What the root itself must pass on, for mounts in it to do so.
pub fn root_propagation(mounts: &[Asked]) -> Option<String> {
    let wishes = || mounts.iter().map(|m| m.propagation.enum_value_or_default());
    if wishes().any(|w| w == MountPropagation::PROPAGATION_BIDIRECTIONAL) {
        return Some("rshared".into());
    }
    wishes().any(|w| w == MountPropagation::PROPAGATION_HOST_TO_CONTAINER).then(|| "rslave".into())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Fixture, fixture};
    use super::super::host::Host;
    use super::*;

    fn with(mounts: Vec<Asked>) -> Fixture {
        let mut f = fixture(Host::for_tests());
        f.config.command = vec!["sh".into()];
        f.config.mounts = mounts;
        f
    }

    fn asked(target: &str, source: &Path) -> Asked {
        Asked { container_path: target.into(), host_path: source.display().to_string(), ..Asked::default() }
    }

    fn targets(f: &Fixture) -> Vec<String> {
        let spec = f.build(1).unwrap().spec;
        spec.mounts().iter().flatten().map(|m| m.destination().display().to_string()).collect()
    }

    #[test]
    fn parents_come_first_and_a_request_wins() {
        let mut f = with(vec![]);
        let dir = f.scratch.dir("data");
        f.config.mounts =
            vec![asked("/a/b/c", &dir), asked("/a", &dir), asked("/etc/hosts/", &dir), asked("rel", &dir), asked("/x/../a/b", &dir)];
        let all = targets(&f);
        let at = |path: &str| all.iter().position(|t| t == path).unwrap_or_else(|| panic!("{path} is not in {all:?}"));
        assert!(at("/a") < at("/a/b") && at("/a/b") < at("/a/b/c"));
        assert!(at("/dev") < at("/dev/pts") && at("/sys") < at("/sys/fs/cgroup") && at("/rel") > at("/proc"));
        assert_eq!(all.iter().filter(|t| *t == "/etc/hosts").count(), 1);
        f.config.mounts = vec![asked("/dev", &dir)];
        assert_eq!(targets(&f).iter().filter(|t| t.starts_with("/dev")).count(), 1);
    }

    #[test]
    fn sources_are_resolved_or_made() {
        let mut f = with(vec![]);
        let dir = f.scratch.dir("data");
        let link = f.scratch.path.join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        let missing = f.scratch.path.join("new/dir");
        f.config.mounts = vec![asked("/l", &link), asked("/m", &missing)];
        let spec = f.build(1).unwrap().spec;
        let source =
            |target: &str| spec.mounts().iter().flatten().find(|m| m.destination() == Path::new(target)).unwrap().source().clone().unwrap();
        assert_eq!((source("/l"), source("/m")), (dir, missing.clone()));
        assert!(missing.is_dir());
    }

    #[test]
    fn volumes_stay_inside_and_give_way() {
        let mut f = with(vec![]);
        let dir = f.scratch.dir("data");
        let mut image = oci_spec::image::Config::default();
        image.set_volumes(Some(["/../../etc", "/data", "/v/../w", "/w"].map(String::from).to_vec()));
        f.image.set_config(Some(image.clone()));
        f.config.mounts = vec![asked("/data/", &dir)];
        let built = f.build(1).unwrap();
        let paths: Vec<_> = built.volumes.iter().map(|v| v.container_path.clone()).collect();
        assert_eq!(paths, [Path::new("/etc"), Path::new("/w")]);
        assert!(built.volumes.iter().all(|v| v.host_path.starts_with(f.scratch.path.join("volumes"))));
        image.set_volumes(Some(vec!["/..".into()]));
        f.image.set_config(Some(image));
        assert!(f.build(1).unwrap_err().chain().contains("whole root"));
    }

    #[test]
    fn propagation_needs_a_mount_that_passes_on() {
        let mut f = with(vec![]);
        let dir = f.scratch.dir("data");
        let table = f.scratch.path.join("mountinfo");
        let shown = dir.display();
        f.host.mountinfo = table.clone();
        let cases = [("shared:5", true, true), ("master:5", true, false), ("shared:4 master:5", true, true), ("", false, false)];
        for (flags, slave, shared) in cases {
            std::fs::write(
                &table,
                format!("1 0 0:1 / / rw shared:1 - ext4 a rw\n2 1 0:2 / {shown} rw {flags} - ext4 a rw\n").replace("  ", " "),
            )
            .unwrap();
            for (wish, good) in
                [(MountPropagation::PROPAGATION_HOST_TO_CONTAINER, slave), (MountPropagation::PROPAGATION_BIDIRECTIONAL, shared)]
            {
                f.config.mounts = vec![Asked { propagation: wish.into(), ..asked("/d", &dir) }];
                assert_eq!(f.build(1).is_ok(), good, "{wish:?} {flags}");
            }
        }
        std::fs::write(&table, "1 0 0:1 / / rw shared:1 - ext4 a rw\n").unwrap();
        let spec = f.build(1).unwrap().spec;
        assert_eq!(spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some("rshared"));
        assert_eq!(unescape(b"/a\\040b\\x"), b"/a b\\x");
    }

    #[test]
    fn recursive_read_only() {
        let mut f = with(vec![]);
        let dir = f.scratch.dir("data");
        f.config.mounts = vec![Asked { readonly: true, recursive_read_only: true, ..asked("/d", &dir) }];
        let spec = f.build(1).unwrap().spec;
        let one = spec.mounts().iter().flatten().find(|m| m.destination() == Path::new("/d")).unwrap().clone();
        assert_eq!(one.options().clone().unwrap(), ["rbind", "rprivate", "rro"]);
        f.host.recursive_read_only = false;
        assert!(f.build(1).unwrap_err().chain().contains("RROUnsupported"));
    }
}
