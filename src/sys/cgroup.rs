//! Control groups of all three layouts behind one handle: where a process is, who is in there, what it used, what its limits are.
//!
//! A handle is a set of paths and holds no descriptor. What a kernel or a layout does not count is `None`, never zero.
mod limits;
mod oom;
mod parse;
mod stats;
mod unit;

pub use limits::Limits;
pub use oom::{OomWatch, watch_oom};
pub use parse::{Device, Pressure, Stall, flat_keyed, limit, number};
pub use stats::{Cpu, Hugetlb, Memory, Pids, Stats, Swap};
pub use unit::{path_of, slice_path};

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

const BASE: &str = "/sys/fs/cgroup";
const UNIFIED: &str = "/sys/fs/cgroup/unified";
/// f_type of cgroup2 (linux/magic.h).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The host's layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A hierarchy a controller.
    V1,
    /// As v1, and beside it a cgroup2 without controllers.
    Hybrid,
    /// One hierarchy.
    V2,
}

impl Mode {
    /// This host's layout; looked up once.
    pub fn host() -> Mode {
        static HOST: OnceLock<Mode> = OnceLock::new();
        *HOST.get_or_init(|| {
            let is_v2 = |path: &str| rustix::fs::statfs(path).is_ok_and(|s| s.f_type as u64 == CGROUP2_MAGIC);
            match (is_v2(BASE), is_v2(UNIFIED)) {
                (true, _) => Mode::V2,
                (_, true) => Mode::Hybrid,
                _ => Mode::V1,
            }
        })
    }
}

/// One control group.
#[derive(Clone, Debug)]
pub struct Cgroup {
    layout: Layout,
    /// On a hybrid host, its directory in the cgroup2 beside v1, if its runtime made one: there the kernel counts pressure.
    unified: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Layout {
    /// Directory of each controller that has the group.
    V1(Vec<(Box<str>, PathBuf)>),
    V2(PathBuf),
}

impl Cgroup {
    /// The group that a process is in.
    pub fn of_pid(pid: i32) -> io::Result<Cgroup> {
        let file = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&file)?;
        let path = text.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
        let layout = match Mode::host() {
            Mode::V2 => Layout::V2(inside(Path::new(BASE), path)?),
            Mode::V1 | Mode::Hybrid => Layout::V1(hierarchies(&text)?),
        };
        Ok(Cgroup { layout, unified: unified(path) })
    }
    /// The group at a path below the root (`/kubepods/pod1/abc`), or in systemd's form of an OCI spec (`a.slice:prefix:name`);
    /// NotFound if no controller has it.
    pub fn at(path: &str) -> io::Result<Cgroup> {
        let path = &*path_of(path);
        let layout = match Mode::host() {
            Mode::V2 => Layout::V2(inside(Path::new(BASE), path)?),
            Mode::V1 | Mode::Hybrid => {
                let mut found = vec![];
                for (controller, root) in controllers()? {
                    found.push((controller.clone(), inside(root, path)?));
                }
                found.retain(|(_, p)| p.is_dir());
                Layout::V1(found)
            }
        };
        let there = match &layout {
            Layout::V1(found) => !found.is_empty(),
            Layout::V2(path) => path.is_dir(),
        };
        if there {
            Ok(Cgroup { layout, unified: unified(path) })
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("cgroup {path}")))
        }
    }
    /// Makes the group in every hierarchy; one that is there is taken.
    pub fn create(path: &str) -> io::Result<Cgroup> {
        match Mode::host() {
            Mode::V2 => make(Path::new(BASE), &inside(Path::new(BASE), path)?, Mode::V2)?,
            mode => {
                for (_, root) in controllers()? {
                    make(root, &inside(root, path)?, mode)?;
                }
            }
        }
        Cgroup::at(path)
    }
    /// The layout it is of.
    pub fn is_v2(&self) -> bool {
        matches!(self.layout, Layout::V2(_))
    }
    /// Its directory for `controller` (v1 name: `memory`, `cpu`, …); None if that hierarchy does not have it.
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        match &self.layout {
            Layout::V1(found) => found.iter().find(|(c, _)| &**c == controller).map(|(_, p)| p.as_path()),
            Layout::V2(path) => Some(path),
        }
    }
    /// A file of it.
    pub fn read(&self, controller: &str, file: &str) -> io::Result<String> {
        fs::read_to_string(self.dir(controller).ok_or(io::ErrorKind::NotFound)?.join(file))
    }
    /// A file that cgroup2 alone has: of the group itself, or on a hybrid host of its twin there.
    fn read_unified(&self, file: &str) -> Option<String> {
        let dir = match &self.layout {
            Layout::V2(path) => path,
            Layout::V1(_) => self.unified.as_ref()?,
        };
        fs::read_to_string(dir.join(file)).ok()
    }
    /// Sets a limit: the file's name and value are those of the layout.
    pub fn set(&self, controller: &str, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.dir(controller).ok_or(io::ErrorKind::NotFound)?.join(file), value)
    }
    /// Moves a process in.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        for dir in self.dirs() {
            fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }
    /// All processes in it and below.
    pub fn procs(&self) -> io::Result<Vec<i32>> {
        let mut found = BTreeSet::new();
        // Groups may be nested in one hierarchy alone; `pids` and `memory` are the ones that containers nest in.
        match &self.layout {
            Layout::V2(path) => collect(path, &mut found)?,
            Layout::V1(all) => {
                let one = ["pids", "memory", "devices"].iter().find_map(|c| self.dir(c)).or(all.first().map(|(_, p)| p.as_path()));
                collect(one.ok_or(io::ErrorKind::NotFound)?, &mut found)?;
            }
        }
        Ok(found.into_iter().collect())
    }
    /// Kills all in it, also those that are being forked meanwhile; gives up after a while on processes that do not go.
    pub fn kill_all(&self) -> io::Result<()> {
        if let Layout::V2(path) = &self.layout
            && fs::write(path.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        for _ in 0..50 {
            let procs = self.procs()?;
            if procs.is_empty() {
                return Ok(());
            }
            for pid in procs {
                let _ = super::signal::kill(pid, libc::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(())
    }
    /// Removes it and what is empty below; a group with processes stays and is an error.
    pub fn remove(&self) -> io::Result<()> {
        for dir in self.dirs() {
            remove_tree(dir)?;
        }
        Ok(())
    }
    /// How often the kernel killed in it for want of memory; None where that is not counted.
    pub fn oom_kills(&self) -> Option<u64> {
        let text = match &self.layout {
            Layout::V2(_) => self.read("memory", "memory.events"),
            Layout::V1(_) => self.read("memory", "memory.oom_control"),
        };
        flat_keyed(&text.ok()?).find(|(k, _)| *k == "oom_kill").map(|(_, v)| v)
    }
    fn dirs(&self) -> Vec<&Path> {
        match &self.layout {
            Layout::V1(found) => found.iter().map(|(_, p)| p.as_path()).collect(),
            Layout::V2(path) => vec![path],
        }
    }
}

/// `path` below `root`: a `..` in it could lead anywhere, so it is refused.
fn inside(root: &Path, path: &str) -> io::Result<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    if relative.components().any(|c| !matches!(c, Component::Normal(_))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cgroup path {path}: must be plain names below the root")));
    }
    Ok(root.join(relative))
}

/// `4:memory:/a/b` lines to directories; what is not mounted is left out.
fn hierarchies(text: &str) -> io::Result<Vec<(Box<str>, PathBuf)>> {
    let mut found = vec![];
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else { continue };
        for name in names.split(',').filter(|n| !n.is_empty()) {
            let name = name.strip_prefix("name=").unwrap_or(name);
            let root = Path::new(BASE).join(name);
            if root.is_dir() {
                found.push((name.into(), inside(&root, path)?));
            }
        }
    }
    Ok(found)
}

/// The mounted hierarchies by controller, looked up once; `cpu` and `cpuacct` may be links to one.
fn controllers() -> io::Result<&'static [(Box<str>, PathBuf)]> {
    static ROOTS: OnceLock<Vec<(Box<str>, PathBuf)>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(roots);
    }
    let own = hierarchies(&fs::read_to_string("/proc/self/cgroup")?)?;
    let roots = own.into_iter().map(|(name, _)| {
        let root = Path::new(BASE).join(&*name);
        (name, root)
    });
    Ok(ROOTS.get_or_init(|| roots.collect()))
}

/// The group's directory in a hybrid host's cgroup2; the root there counts for the whole node, not for a group.
fn unified(path: &str) -> Option<PathBuf> {
    if Mode::host() != Mode::Hybrid || path.trim_matches('/').is_empty() {
        return None;
    }
    inside(Path::new(UNIFIED), path).ok().filter(|dir| dir.is_dir())
}

/// Makes the directories from `root` down to `dir`; on v1 a fresh cpuset must first inherit, or no process can enter it.
fn make(root: &Path, dir: &Path, mode: Mode) -> io::Result<()> {
    let relative = dir.strip_prefix(root).unwrap_or(Path::new(""));
    let mut at = root.to_path_buf();
    for name in relative {
        if mode == Mode::V2 {
            let available = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
            for controller in available.split_whitespace() {
                // A controller that the parent cannot hand down stays off; the limits that need it then fail by name.
                let _ = fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        let parent = at.clone();
        at.push(name);
        match fs::create_dir(&at) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if mode != Mode::V2 && fs::read_to_string(at.join(file)).is_ok_and(|v| v.trim().is_empty()) {
                fs::write(at.join(file), fs::read_to_string(parent.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

fn collect(dir: &Path, found: &mut BTreeSet<i32>) -> io::Result<()> {
    found.extend(fs::read_to_string(dir.join("cgroup.procs"))?.lines().filter_map(|l| l.parse::<i32>().ok()));
    for entry in fs::read_dir(dir)?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            match collect(&entry.path(), found) {
                // A group that goes while we look has nobody in it.
                Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_group_is_found_and_has_us_in_it() {
        let own = Cgroup::of_pid(std::process::id() as i32).unwrap();
        assert!(own.procs().unwrap().contains(&(std::process::id() as i32)));
        assert!(own.stats().unwrap().cpu.usage_ns > 0);
        assert_eq!(own.is_v2(), Mode::host() == Mode::V2);
    }

    #[test]
    fn a_group_is_made_entered_killed_and_removed() {
        let name = format!("/cradle-shim-test-{}/a", std::process::id());
        let group = Cgroup::create(&name).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        group.add(child.id() as i32).unwrap();
        assert_eq!(group.procs().unwrap(), [child.id() as i32]);
        let stats = group.stats().unwrap();
        assert_eq!(stats.pids.unwrap().current, 1);
        assert!(stats.memory.unwrap().limit.is_none());
        assert_eq!(group.oom_kills(), Some(0));
        group.kill_all().unwrap();
        child.wait().unwrap();
        Cgroup::at(name.trim_end_matches("/a")).unwrap().remove().unwrap();
        assert_eq!(Cgroup::at(&name).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_path_cannot_leave_the_root() {
        assert!(Cgroup::at("/a/../../etc").is_err());
        assert!(Cgroup::at("/no-such-group-here").is_err());
    }
}
