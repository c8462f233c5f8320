//! Syncer: the networks of a conf directory as it is now, without a restart; the directory may come and go.
use super::network::Network;
use super::plugins::Plugins;
use super::{NOT_INITIALIZED, conf};
use crate::error::{Context, Error, Kind, Result};
use crate::thread::{Stop, Threads, read, write};
use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask};
use log::{error, info, warn};
use rustix::event::{PollFd, PollFlags, poll};
use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

/// One conf directory that is watched.
pub struct Syncer {
    conf_dir: PathBuf,
    max_conf_num: usize,
    plugins: Arc<Plugins>,
    current: RwLock<Result<Arc<Network>, String>>,
}

/// What is watched: the directory when it is there, and the nearest directory above it that is.
#[derive(Default)]
struct Watched {
    dir: Option<WatchDescriptor>,
    above: Option<(WatchDescriptor, OsString)>,
}

impl Syncer {
    /// Loads the directory, which is created if missing, and keeps watching it on the thread `cni-sync:<number>`.
    pub fn spawn(threads: &Threads, plugins: Arc<Plugins>, conf_dir: &Path, max_conf_num: usize, number: usize) -> Result<Arc<Syncer>> {
        DirBuilder::new().recursive(true).mode(0o700).create(conf_dir).during(|| format!("create {}", conf_dir.display()))?;
        let mut inotify = Inotify::init().during(|| "start inotify")?;
        let mut watched = Watched::default();
        let current = RwLock::new(Err(NOT_INITIALIZED.into()));
        let syncer = Arc::new(Syncer { conf_dir: conf_dir.to_owned(), max_conf_num, plugins, current });
        syncer.watch(&mut inotify, &mut watched)?;
        syncer.load();
        let own = syncer.clone();
        threads.spawn(format!("cni-sync:{number}"), move |stop| {
            own.tell(stop);
            if let Err(e) = own.follow(inotify, watched, stop) {
                error!("{} is no longer watched, changes need a restart: {}", own.conf_dir.display(), e.chain());
            }
        })?;
        Ok(syncer)
    }

    /// The networks, or why there are none.
    pub fn current(&self) -> Result<Arc<Network>, String> {
        read(&self.current).clone()
    }

    /// Why the last load failed.
    pub fn last_error(&self) -> Option<String> {
        self.current().err()
    }

    /// The directory.
    pub fn conf_dir(&self) -> &Path {
        &self.conf_dir
    }

    fn follow(&self, mut inotify: Inotify, mut watched: Watched, stop: &Stop) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let mut fds = [PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN), PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).during(|| "wait for changes"),
            }
            if stop.stopped() {
                return Ok(());
            }
            let mut changed = false;
            loop {
                match inotify.read_events(&mut buffer) {
                    Ok(events) => events.for_each(|event| changed |= self.matters(&watched, &event)),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e).during(|| "read changes"),
                }
            }
            if changed {
                self.watch(&mut inotify, &mut watched)?;
                self.load();
                self.tell(stop);
            }
        }
    }

    fn tell(&self, stop: &Stop) {
        match self.last_error() {
            None => stop.went_well(),
            Some(why) => stop.went_wrong(&Error::new(Kind::Unavailable, why)),
        }
    }

    fn matters(&self, watched: &Watched, event: &Event<&OsStr>) -> bool {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return true;
        }
        if watched.above.as_ref().is_some_and(|(wd, name)| *wd == event.wd && event.name == Some(name)) {
            return true;
        }
        if event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED) {
            // IGNORED also follows a watch of ours that was let go.
            return watched.dir.as_ref() == Some(&event.wd) || watched.above.as_ref().is_some_and(|(wd, _)| *wd == event.wd);
        }
        if watched.dir.as_ref() != Some(&event.wd) {
            return false;
        }
        // A file that is only just created is empty: its close tells. A link is whole at once.
        !event.mask.contains(EventMask::CREATE)
            || event.name.and_then(|name| self.conf_dir.join(name).symlink_metadata().ok()).is_some_and(|m| !m.is_file() || m.nlink() > 1)
    }

    /// Watches first and looks then: nothing that happens in between is missed.
    fn watch(&self, inotify: &mut Inotify, watched: &mut Watched) -> Result<()> {
        let mut watches = inotify.watches();
        let names = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
        let own = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
        let mut fresh = Watched::default();
        let (mut dir, mut below): (&Path, Option<OsString>) = (&self.conf_dir, None);
        loop {
            let is_ours = below.is_none();
            match watches.add(dir, if is_ours { names | own | WatchMask::CLOSE_WRITE } else { names | own }) {
                Ok(wd) if is_ours => fresh.dir = Some(wd),
                Ok(wd) => fresh.above = below.clone().map(|name| (wd, name)),
                Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Err(e).during(|| format!("watch {}", dir.display()));
                }
                Err(_) => {}
            }
            let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { break };
            if fresh.above.is_some() {
                break;
            }
            (dir, below) = (parent, Some(name.to_owned()));
        }
        let kept: Vec<_> = fresh.dir.iter().chain(fresh.above.iter().map(|(wd, _)| wd)).cloned().collect();
        let old = std::mem::replace(watched, fresh);
        for wd in old.dir.into_iter().chain(old.above.map(|(wd, _)| wd)).filter(|wd| !kept.contains(wd)) {
            // It is gone already if its directory is.
            let _ = watches.remove(wd);
        }
        // Made between the failed look at it and the watch above it: look again.
        let missed = watched.dir.is_none() && watched.above.as_ref().is_some_and(|(_, name)| dir.join(name).is_dir());
        if missed { self.watch(inotify, watched) } else { Ok(()) }
    }

    fn load(&self) {
        let fresh = Network::load(&self.plugins, &self.conf_dir, self.max_conf_num).map(Arc::new).map_err(|e| reason(&e));
        let before = self.current();
        match (&before, &fresh) {
            (Ok(old), Ok(new)) if old.lists() == new.lists() => return,
            (_, Ok(new)) => {
                let names: Vec<_> = new.lists().iter().map(|l: &conf::List| l.name.as_str()).collect();
                info!("{}: network {} is ready for pods", self.conf_dir.display(), names.join(", "));
            }
            (Err(old), Err(new)) if old == new => return,
            (_, Err(new)) => warn!("no pod can get a network: {new}"),
        }
        *write(&self.current) = fresh;
    }
}

fn reason(e: &Error) -> String {
    format!("{NOT_INITIALIZED}: {}", e.chain())
}
