//! User namespaces: made by a process that lives only until what it holds is pinned on files or held by a descriptor.
//!
//! A process of several threads cannot change its own user namespace, so a child is made in it; the child runs no code of ours but
//! two system calls, and ends when this process lets go of it or dies.
use super::netns::{self, NsKind};
use crate::error::{Context, Result};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// One line of a map: `count` IDs from `inside` on are the node's from `outside` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdRange {
    /// First ID in the namespace.
    pub inside: u32,
    /// First ID outside of it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The maps of a user namespace.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

impl IdRange {
    /// Reads `inside:outside:count`.
    pub fn parse(text: &str) -> Option<IdRange> {
        let mut parts = text.split(':').map(|p| p.parse::<u32>().ok());
        let range = IdRange { inside: parts.next()??, outside: parts.next()??, count: parts.next()?? };
        let fits = |first: u32| range.count > 0 && first.checked_add(range.count - 1).is_some();
        (parts.next().is_none() && fits(range.inside) && fits(range.outside)).then_some(range)
    }
}

impl std::fmt::Display for IdRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.outside, self.count)
    }
}

/// Reads ranges, separated by commas.
pub fn ranges(text: &str) -> Option<Vec<IdRange>> {
    text.split(',').map(IdRange::parse).collect()
}

/// What an ID of the namespace is outside; none if it is not mapped.
pub fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    ranges.iter().find_map(|r| id.checked_sub(r.inside).filter(|at| *at < r.count).map(|at| r.outside + at))
}

impl IdMap {
    /// The node's IDs of the namespace's root; none unless both are mapped.
    pub fn root(&self) -> Option<(u32, u32)> {
        outside(&self.uids, 0).zip(outside(&self.gids, 0))
    }
}

/// A process in a new user namespace.
struct Holder {
    pid: libc::pid_t,
    /// Closing it ends the process.
    leash: Option<OwnedFd>,
}

impl Holder {
    /// With further namespaces that belong to the new user namespace.
    fn new(map: &IdMap, kinds: &[NsKind]) -> io::Result<Holder> {
        let (end, leash) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let flags = kinds.iter().fold(libc::CLONE_NEWUSER, |all, kind| all | kind.clone_flag());
        // SAFETY: a clone_args of zeros is valid: no stack, no signal at its end, no memory shared; only flags are set.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = flags as u64;
        // SAFETY: as fork: nothing is shared with the child. The child makes no allocation and takes no lock, it only calls
        // `hold`, which never returns.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
        match pid {
            0 => hold(end.as_raw_fd()),
            1.. => {}
            _ => return Err(io::Error::last_os_error()),
        }
        let holder = Holder { pid: pid as libc::pid_t, leash: Some(leash) };
        for (file, ranges) in [("uid_map", &map.uids), ("gid_map", &map.gids)] {
            let text: String = ranges.iter().map(|r| format!("{} {} {}\n", r.inside, r.outside, r.count)).collect();
            fs::write(format!("/proc/{}/{file}", holder.pid), text)?;
        }
        Ok(holder)
    }
}

/// Waits until the other end of `end` is closed everywhere, and ends.
fn hold(end: RawFd) -> ! {
    let mut byte = 0u8;
    // SAFETY: plain system calls, `byte` outlives them. All other descriptors are closed first: what the parent has open must not
    // stay so because of us, and the leash's other end is among them.
    unsafe {
        if end > 0 {
            libc::syscall(libc::SYS_close_range, 0u32, (end - 1) as u32, 0u32);
        }
        libc::syscall(libc::SYS_close_range, (end + 1) as u32, u32::MAX, 0u32);
        libc::syscall(libc::SYS_read, end, &raw mut byte, 1usize);
        loop {
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.leash = None;
        let mut status = 0;
        // SAFETY: the child is ours and waited for nowhere else (it sends no signal, so only a wait with __WALL sees it).
        while unsafe { libc::waitpid(self.pid, &raw mut status, libc::__WALL) } < 0
            && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {}
    }
}

/// A new user namespace, alive as long as the descriptor.
pub fn open(map: &IdMap) -> io::Result<OwnedFd> {
    let holder = Holder::new(map, &[])?;
    let path = format!("/proc/{}/ns/user", holder.pid);
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a user namespace and further ones that belong to it, and binds each on its file, which must not exist. On an error nothing
/// is left. `paths` names the user namespace's own file too.
pub fn pin(map: &IdMap, paths: &[(NsKind, PathBuf)], hostname: Option<&str>) -> Result<()> {
    let kinds: Vec<NsKind> = paths.iter().map(|(kind, _)| *kind).collect();
    let holder = Holder::new(map, &kinds).during(|| "make a user namespace")?;
    netns::pin_of(holder.pid as u32, paths)?;
    drop(holder);
    let Some((name, (_, uts))) = hostname.zip(paths.iter().find(|(kind, _)| *kind == NsKind::Uts)) else { return Ok(()) };
    let owned = name.to_owned();
    let named =
        netns::in_namespace(uts, move || rustix::system::sethostname(owned.as_bytes()).during(|| format!("set host name \"{owned}\"")));
    named.map_err(|error| paths.iter().filter_map(|(_, path)| netns::unpin(path).err()).fold(error, crate::error::Error::and_also))
}

/// Whether this process can make user namespaces with maps of their own; else why not.
pub fn probe() -> io::Result<()> {
    let some = vec![IdRange { inside: 0, outside: 65_536, count: 65_536 }];
    open(&IdMap { uids: some.clone(), gids: some }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;

    fn map() -> IdMap {
        let ranges = |outside| vec![IdRange { inside: 0, outside, count: 1000 }];
        IdMap { uids: ranges(100_000), gids: ranges(200_000) }
    }

    #[test]
    fn ranges_are_read_and_used() {
        assert_eq!(ranges("0:100000:65536").unwrap(), [IdRange { inside: 0, outside: 100_000, count: 65_536 }]);
        let two = ranges("5:1:1,0:200000:5").unwrap();
        assert_eq!((outside(&two, 5), outside(&two, 4), outside(&two, 6)), (Some(1), Some(200_004), None));
        for bad in ["", "x", "0:1", "0:1:0", "0:1:2:3", "4294967295:0:2", "0:4294967295:2", "0:1:1,"] {
            assert_eq!(ranges(bad), None, "{bad}");
        }
    }

    #[test]
    fn namespaces_in_a_user_namespace_live_without_a_process() {
        let scratch = Scratch::with_private_mounts("userns");
        let at = |kind: NsKind| scratch.path.join("ns").join(kind.name());
        let all = [NsKind::User, NsKind::Net, NsKind::Ipc, NsKind::Uts].map(|k| (k, at(k)));
        pin(&map(), &all, Some("mapped")).unwrap();
        assert!(all.iter().all(|(_, path)| netns::is_pinned(path)));
        let owner = fs::File::open(at(NsKind::Net)).unwrap();
        // SAFETY: NS_GET_USERNS takes no argument and gives a new descriptor.
        let fd = unsafe { libc::ioctl(owner.as_raw_fd(), 0xb701) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        let of = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        assert_eq!(of(std::path::Path::new(&format!("/proc/self/fd/{fd}"))), of(&at(NsKind::User)), "the network belongs to it");
        let name = netns::in_namespace(&at(NsKind::Uts), || Ok(rustix::system::uname().nodename().to_owned())).unwrap();
        assert_eq!(name.to_str().unwrap(), "mapped");
        netns::loopback_up(&at(NsKind::Net)).unwrap();
        assert!(pin(&map(), &all, None).is_err(), "a file in use is no place for a second pin");
        for (_, path) in &all {
            netns::unpin(path).unwrap();
        }
    }

    #[test]
    fn what_the_kernel_refuses_leaves_no_process() {
        let children = || fs::read_to_string(format!("/proc/self/task/{}/children", rustix::thread::gettid().as_raw_nonzero())).unwrap();
        let twice = vec![IdRange { inside: 0, outside: 1000, count: 10 }; 2];
        assert!(open(&IdMap { uids: twice, gids: vec![] }).is_err());
        open(&map()).unwrap();
        assert_eq!(children(), "");
        probe().unwrap();
    }
}
