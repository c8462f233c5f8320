//! Out of memory, told by the kernel: a descriptor for a poll loop, of an eventfd on v1 and of inotify on v2.
use super::Cgroup;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A watch on one group; dropping it ends it.
pub struct OomWatch {
    fd: OwnedFd,
    group: Cgroup,
    seen: u64,
    /// v1 wants its file open as long as the eventfd is registered.
    _control: Option<File>,
}

/// Begins to watch; kills from before are not told.
pub fn watch_oom(group: &Cgroup) -> io::Result<OomWatch> {
    let dir = group.dir("memory").ok_or(io::ErrorKind::NotFound)?;
    let seen = group.oom_kills().unwrap_or_default();
    if group.is_v2() {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
        return Ok(OomWatch { fd, group: group.clone(), seen, _control: None });
    }
    let control = File::open(dir.join("memory.oom_control"))?;
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    fs::write(dir.join("cgroup.event_control"), format!("{} {}", fd.as_raw_fd(), control.as_raw_fd()))?;
    Ok(OomWatch { fd, group: group.clone(), seen, _control: Some(control) })
}

impl OomWatch {
    /// Readable when there may be news.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    /// Whether the kernel killed since the last call. Also worth asking when a process of the group dies: the news may be behind.
    pub fn killed(&mut self) -> bool {
        let mut buffer = [0u8; 1024];
        let told = matches!(rustix::io::read(&self.fd, &mut buffer), Ok(n) if n > 0);
        match self.group.oom_kills() {
            Some(now) if now > self.seen => {
                self.seen = now;
                true
            }
            // v1 tells before it kills, and tells when the group is removed.
            Some(_) if told && !self.group.is_v2() => {
                self.seen += 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn a_kill_for_want_of_memory_is_told() {
        let name = format!("/cradle-shim-oom-{}", std::process::id());
        let group = Cgroup::create(&name).unwrap();
        let (file, swap) = if group.is_v2() { ("memory.max", "memory.swap.max") } else { ("memory.limit_in_bytes", "memory.swappiness") };
        group.set("memory", file, "4194304").unwrap();
        let _ = group.set("memory", swap, "0");
        let mut watch = watch_oom(&group).unwrap();
        assert!(!watch.killed());
        let entered: Vec<String> = group.dirs().iter().map(|d| format!("echo $$ > {}/cgroup.procs", d.display())).collect();
        let script = format!("{}; exec tail /dev/zero", entered.join("; "));
        let mut child = std::process::Command::new("sh").arg("-c").arg(script).spawn().unwrap();
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::from_borrowed_fd(watch.fd(), PollFlags::IN)], Some(&limit)).unwrap();
        child.wait().unwrap();
        assert_eq!(ready, 1);
        assert!(watch.killed());
        group.remove().unwrap();
    }
}
