//! What `/proc` tells of a process that no cgroup counts: open files, its network namespace's interfaces, huge pages, limits.
use std::fs;
use std::io;

/// Open files of a process.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OpenFiles {
    /// All descriptors, sockets too.
    pub all: u64,
    /// Sockets.
    pub sockets: u64,
}

/// What went through one network interface.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Interface {
    /// `eth0`.
    pub name: String,
    /// Received.
    pub rx: Traffic,
    /// Sent.
    pub tx: Traffic,
}

/// One direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// Sets how early a process is killed for want of memory; one that is gone is fine.
pub fn set_oom_score(pid: u32, score: i32) -> io::Result<()> {
    match fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        done => done,
    }
}

/// Counts a process's descriptors; NotFound once it is gone.
pub fn open_files(pid: i32) -> io::Result<OpenFiles> {
    let mut found = OpenFiles::default();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        found.all += 1;
        if fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:")) {
            found.sockets += 1;
        }
    }
    Ok(found)
}

/// The interfaces of the network namespace that a process is in; nobody enters it.
pub fn interfaces(pid: u32) -> io::Result<Vec<Interface>> {
    Ok(net_dev(&fs::read_to_string(format!("/proc/{pid}/net/dev"))?))
}

/// Bytes of huge pages that a process maps.
pub fn huge_bytes(pid: i32) -> io::Result<u64> {
    Ok(huge_pages(&fs::read_to_string(format!("/proc/{pid}/status"))?))
}

/// The size of huge pages where no group counts them, as groups name it (`2MB`); None on a kernel without them.
pub fn huge_page_size() -> Option<String> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kb = text.lines().find_map(|l| l.strip_prefix("Hugepagesize:"))?.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?;
    Some(match kb >> 10 {
        0 => format!("{kb}KB"),
        mb if mb >= 1024 => format!("{}GB", mb >> 10),
        mb => format!("{mb}MB"),
    })
}

/// How many files a process may open before it raises its own limit; None is without limit.
pub fn soft_open_files(pid: u32) -> io::Result<Option<u64>> {
    Ok(max_open_files(&fs::read_to_string(format!("/proc/{pid}/limits"))?))
}

/// Two lines of heading, then `name: rx bytes packets errs drop fifo frame compressed multicast, tx bytes packets errs drop …`.
fn net_dev(text: &str) -> Vec<Interface> {
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, counts) = line.split_once(':')?;
            let counts: Vec<u64> = counts.split_whitespace().map(|n| n.parse().unwrap_or_default()).collect();
            let traffic = |at: usize| -> Option<Traffic> {
                let [bytes, packets, errors, dropped] = *counts.get(at..at + 4)? else { return None };
                Some(Traffic { bytes, packets, errors, dropped })
            };
            Some(Interface { name: name.trim().into(), rx: traffic(0)?, tx: traffic(8)? })
        })
        .collect()
}

fn huge_pages(text: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix("HugetlbPages:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).map_or(0, |kb| kb << 10)
}

fn max_open_files(text: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_told_apart() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n  \
                    eth0:1016      12    1    2    0     0          0         0      866      11    3    4    0     0       0          0\n";
        let found = net_dev(text);
        assert_eq!(found.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["lo", "eth0"]);
        assert_eq!(found[1].rx, Traffic { bytes: 1016, packets: 12, errors: 1, dropped: 2 });
        assert_eq!(found[1].tx, Traffic { bytes: 866, packets: 11, errors: 3, dropped: 4 });
        assert!(net_dev("").is_empty());
    }

    #[test]
    fn status_and_limits() {
        assert_eq!(huge_pages("VmRSS:\t 1 kB\nHugetlbPages:\t    2048 kB\n"), 2 << 20);
        assert_eq!(huge_pages("VmRSS:\t 1 kB\n"), 0);
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 4096                 files     \n";
        assert_eq!(max_open_files(limits), Some(1024));
        assert_eq!(max_open_files("Max open files            unlimited            unlimited            files\n"), None);
    }

    #[test]
    fn own_files_are_counted() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = open_files(own).unwrap();
        let pair = std::os::unix::net::UnixStream::pair().unwrap();
        let after = open_files(own).unwrap();
        assert!(after.all >= before.all && after.sockets >= 2, "{before:?} {after:?}");
        drop(pair);
        assert!(interfaces(std::process::id()).unwrap().iter().any(|i| i.name == "lo"));
    }
}
