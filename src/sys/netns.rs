//! Namespaces kept alive by a bind mount on a file, without a process of their own.
//!
//! Each is made, entered or read by a thread that ends with the job, so no thread of the daemon ever changes its namespaces.
use crate::error::{Context, Error, Result};
use crate::thread::Threads;
use rustix::fs::{FlockOperation, flock, statfs};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Magic number of the file system that namespace files live on (linux/magic.h: NSFS_MAGIC).
const NSFS: u64 = 0x6e73_6673;

/// How long a loopback connection may take: longer only if the server's queue is full.
const DIAL: Duration = Duration::from_secs(10);

/// A kind of namespace that can live without a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NsKind {
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Users, groups and capabilities; only [`super::userns`] makes them.
    User,
}

impl NsKind {
    /// Its name under `/proc/<pid>/ns`.
    pub fn name(self) -> &'static str {
        match self {
            NsKind::Net => "net",
            NsKind::Ipc => "ipc",
            NsKind::Uts => "uts",
            NsKind::User => "user",
        }
    }
    /// Its flag of clone(2).
    pub(super) fn clone_flag(self) -> libc::c_int {
        match self {
            NsKind::Net => libc::CLONE_NEWNET,
            NsKind::Ipc => libc::CLONE_NEWIPC,
            NsKind::Uts => libc::CLONE_NEWUTS,
            NsKind::User => libc::CLONE_NEWUSER,
        }
    }
    fn flag(self) -> UnshareFlags {
        match self {
            NsKind::Net => UnshareFlags::NEWNET,
            NsKind::Ipc => UnshareFlags::NEWIPC,
            NsKind::Uts => UnshareFlags::NEWUTS,
            // A process of several threads cannot: the kernel refuses it.
            NsKind::User => UnshareFlags::NEWUSER,
        }
    }
}

/// Makes fresh namespaces and binds each on its file, which must not exist. On an error nothing is left.
pub fn pin(paths: &[(NsKind, PathBuf)], hostname: Option<&str>) -> Result<()> {
    let (paths, hostname) = (paths.to_vec(), hostname.map(str::to_owned));
    on_own_thread("ns-pin", move || {
        let flags = paths.iter().fold(UnshareFlags::empty(), |all, (kind, _)| all | kind.flag());
        // SAFETY: the flags hold only NEWNET, NEWIPC and NEWUTS: no file table or memory is unshared, and only this thread,
        // which ends with this closure, is moved.
        unsafe { rustix::thread::unshare_unsafe(flags) }.during(|| "make new namespaces")?;
        if let Some(name) = hostname.filter(|_| flags.contains(UnshareFlags::NEWUTS)) {
            rustix::system::sethostname(name.as_bytes()).during(|| format!("set host name \"{name}\""))?;
        }
        bind_all(&paths, Path::new("/proc/thread-self/ns"))
    })
}

/// Binds the namespaces of a living process, as made by a runtime in a user namespace, on files.
pub fn pin_of(pid: u32, paths: &[(NsKind, PathBuf)]) -> Result<()> {
    bind_all(paths, Path::new(&format!("/proc/{pid}/ns")))
}

fn bind_all(paths: &[(NsKind, PathBuf)], from: &Path) -> Result<()> {
    for (done, (kind, path)) in paths.iter().enumerate() {
        if let Err(mut e) = bind(&from.join(kind.name()), path) {
            for (_, path) in &paths[..done] {
                if let Err(also) = unpin(path) {
                    e = e.and_also(also);
                }
            }
            return Err(e);
        }
    }
    Ok(())
}

fn bind(namespace: &Path, path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        share(parent)?;
    }
    File::create_new(path).during(|| format!("create {} for a namespace", path.display()))?;
    mount_bind(namespace, path).during(|| format!("bind a namespace on {}", path.display())).map_err(|e| match fs::remove_file(path) {
        Ok(()) => e,
        Err(also) => e.and_also(Error::internal(also.to_string())),
    })
}

/// Makes the directory a shared mount as `ip netns` does, so that every mount namespace sees a pin come and go.
fn share(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(dir).during(|| format!("create {}", dir.display()))?;
    // Two that find it unshared would mount it twice, and the upper mount would hide the pins in the lower one.
    let lock = File::open(dir).during(|| format!("open {}", dir.display()))?;
    flock(&lock, FlockOperation::LockExclusive).during(|| format!("lock {}", dir.display()))?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(dir, shared) {
        Err(Errno::INVAL) => {
            mount_bind_recursive(dir, dir).during(|| format!("make {} a mount", dir.display()))?;
            mount_change(dir, shared).during(|| format!("share the mount {}", dir.display()))
        }
        other => other.during(|| format!("share the mount {}", dir.display())),
    }
}

/// Lets go of a pinned namespace and removes its file. Repeating it is free.
pub fn unpin(path: &Path) -> Result<()> {
    // A file may carry several mounts; each call takes the upper one.
    loop {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(e) => return Err(e).during(|| format!("unmount the namespace {}", path.display())),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).during(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

/// Whether a living namespace is bound there; after a reboot the file may be left without one.
pub fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|s| s.f_type as u64 == NSFS)
}

/// Runs a function on a throw-away thread inside a namespace file.
pub fn in_namespace<T: Send + 'static>(path: &Path, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let path = path.to_owned();
    on_own_thread("ns-enter", move || {
        let file = File::open(&path).during(|| format!("open namespace {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), None::<LinkNameSpaceType>).during(|| format!("enter namespace {}", path.display()))?;
        f()
    })
}

/// Connects to a port of this host's loopback, or of another network namespace's; the socket, which never blocks, stays in it.
pub fn dial(namespace: Option<&Path>, port: u16) -> Result<OwnedFd> {
    let stream = match namespace {
        Some(path) => in_namespace(path, move || dial_here(port)),
        None => dial_here(port),
    }?;
    stream.set_nonblocking(true).during(|| "make a socket non-blocking")?;
    Ok(stream.into())
}

/// First version 4, then 6: a server may listen on one of them alone.
fn dial_here(port: u16) -> Result<TcpStream> {
    let connect = |ip: IpAddr| TcpStream::connect_timeout(&(ip, port).into(), DIAL);
    connect(Ipv4Addr::LOCALHOST.into())
        .or_else(|v4| connect(Ipv6Addr::LOCALHOST.into()).map_err(|v6| io::Error::new(v4.kind(), format!("127.0.0.1: {v4}; ::1: {v6}"))))
        .during(|| format!("connect to port {port} of localhost"))
}

/// Sets `lo` up inside a network namespace; the kernel gives it 127.0.0.1 and ::1. Repeating it is free.
pub fn loopback_up(path: &Path) -> Result<()> {
    in_namespace(path, || set_loopback_up().during(|| "set lo up"))
}

fn set_loopback_up() -> io::Result<()> {
    // SAFETY: plain call without pointers; the new descriptor is owned from here on.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: an ifreq of zeros is valid, all its fields are plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // SAFETY: the socket is open and the request is an ifreq that outlives both calls; ifr_flags is the union's field that
    // SIOCGIFFLAGS has filled.
    unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn on_own_thread<T: Send + 'static>(name: &str, f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (tell, told) = crossbeam_channel::bounded(1);
    let threads = Threads::new()?;
    threads.spawn(name, move |_| {
        let _ = tell.send(f());
    })?;
    let answer = told.recv().map_err(|_| Error::internal(format!("thread {name} panicked")))?;
    threads.shutdown();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn scratch() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = format!("/tmp/cradle-netns-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        PathBuf::from(dir)
    }

    fn gone(dir: &Path) {
        let _ = unmount(dir, UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(dir);
    }

    #[test]
    fn pinned_namespaces_live_without_a_process_until_unpinned() {
        let dir = scratch();
        let at = |kind: NsKind| dir.join(kind.name());
        let all = [NsKind::Net, NsKind::Ipc, NsKind::Uts].map(|k| (k, at(k)));
        pin(&all, Some("pod-one")).unwrap();
        assert!(all.iter().all(|(_, p)| is_pinned(p)));
        let name = in_namespace(&at(NsKind::Uts), || Ok(rustix::system::uname().nodename().to_owned())).unwrap();
        assert_eq!(name.to_str().unwrap(), "pod-one");
        assert_ne!(rustix::system::uname().nodename().to_str().unwrap(), "pod-one");
        let links = in_namespace(&at(NsKind::Net), || fs::read_to_string("/proc/thread-self/net/dev").during(|| "read")).unwrap();
        assert_eq!(links.lines().count(), 3, "only lo: {links}");
        assert!(pin(&all, None).is_err(), "a file in use is no place for a second pin");
        assert!(all.iter().all(|(_, p)| is_pinned(p)), "and the first pin is unharmed");
        for (_, path) in &all {
            unpin(path).unwrap();
            unpin(path).unwrap();
            assert!(!path.exists());
        }
        gone(&dir);
    }

    #[test]
    fn loopback_answers_once_it_is_up() {
        let dir = scratch();
        let path = dir.join("net");
        pin(&[(NsKind::Net, path.clone())], None).unwrap();
        let reach = |p: &Path| {
            in_namespace(p, || {
                let listener = std::net::UdpSocket::bind("127.0.0.1:0").during(|| "bind")?;
                let to = listener.local_addr().during(|| "address")?;
                listener.send_to(b"x", to).during(|| "send")
            })
        };
        assert!(reach(&path).is_err());
        loopback_up(&path).unwrap();
        loopback_up(&path).unwrap();
        assert_eq!(reach(&path).unwrap(), 1);
        let listener = in_namespace(&path, || std::net::TcpListener::bind("[::1]:0").during(|| "bind")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = dial(Some(&path), port).unwrap();
        rustix::io::write(&socket, b"x").unwrap();
        assert_eq!(io::Read::read(&mut listener.accept().unwrap().0, &mut [0; 9]).unwrap(), 1);
        assert!(dial(None, port).is_err(), "it listens in the other namespace");
        unpin(&path).unwrap();
        gone(&dir);
    }

    #[test]
    fn a_failed_pin_leaves_nothing() {
        let dir = scratch();
        let (good, bad) = (dir.join("net"), dir.join("taken"));
        fs::create_dir_all(&bad).unwrap();
        assert!(pin(&[(NsKind::Net, good.clone()), (NsKind::Ipc, bad)], None).is_err());
        assert!(!good.exists());
        gone(&dir);
    }
}
