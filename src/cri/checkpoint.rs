//! Checkpoint archive: one tar with a container's processes, its changed files, and what it was, in the layout that containerd,
//! CRI-O and `checkpointctl` have: `config.dump`, `spec.dump`, `status`, `container.log`, `rootfs-diff.tar`, `dump.log`, `checkpoint/`.
use super::criu;
use super::store::container::{Container, State};
use crate::config::RuncOptions;
use crate::core::container::Container as Stored;
use crate::core::diff;
use crate::error::{Context, Result};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tar::{Builder, EntryType, Header};

/// Where the parts are collected.
pub struct Parts {
    dir: PathBuf,
    images: PathBuf,
    work: PathBuf,
}

impl Parts {
    /// Below a directory of the container's own, but for what the handler's options put elsewhere.
    pub fn of(own: &Path, id: &str, options: &RuncOptions) -> Parts {
        let dir = own.join("checkpoint");
        let place = |asked: &str, name: &str| if asked.is_empty() { dir.join(name) } else { Path::new(asked).join(id) };
        Parts { images: place(&options.criu_image_path, "images"), work: place(&options.criu_work_path, "work"), dir }
    }
    /// Makes the directories afresh.
    pub fn make(&self) -> Result<()> {
        self.remove()?;
        [&self.dir, &self.images, &self.work].into_iter().try_for_each(|dir| super::dirs::make(dir))
    }
    /// Whether there are any.
    pub fn there(&self) -> bool {
        self.dir.exists()
    }
    /// CRIU's images.
    pub fn images(&self) -> &Path {
        &self.images
    }
    /// CRIU's log.
    pub fn work(&self) -> &Path {
        &self.work
    }
    fn layer(&self) -> PathBuf {
        self.dir.join("rootfs-diff.tar")
    }
    /// Writes the container's changed files.
    pub fn keep_files(&self, upper: &Path) -> Result<()> {
        let path = self.layer();
        let file = File::create(&path).during(|| format!("create {}", path.display()))?;
        diff::write_layer(upper, BufWriter::new(file))
    }
    /// Writes the archive, which is there whole or not at all.
    pub fn pack(&self, location: &Path, container: &Container, stored: &Stored, runtime: &str) -> Result<()> {
        let draft = location.with_extension("part");
        let packed = self.write(&draft, container, stored, runtime).and_then(|()| std::fs::rename(&draft, location));
        if packed.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
        packed.during(|| format!("write {}", location.display()))
    }
    fn write(&self, draft: &Path, container: &Container, stored: &Stored, runtime: &str) -> std::io::Result<()> {
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
        let mut tar = Builder::new(BufWriter::new(file));
        text(&mut tar, "config.dump", &config(container, runtime))?;
        text(&mut tar, "spec.dump", &stored.spec)?;
        text(&mut tar, "status", &status(container))?;
        tar.append_dir_all("checkpoint", &self.images)?;
        tar.append_path_with_name(self.layer(), "rootfs-diff.tar")?;
        for (path, name) in [(Some(criu::log_of(&self.work)), "dump.log"), (container.record.log_path.clone(), "container.log")] {
            if let Some(file) = path.and_then(|path| File::open(path).ok()) {
                growing(&mut tar, name, file)?;
            }
        }
        tar.into_inner()?.into_inner().map_err(|e| e.into_error())?.sync_all()
    }
    /// Removes the parts; the directory that tells of them goes last.
    pub fn remove(&self) -> Result<()> {
        [&self.images, &self.work, &self.dir].into_iter().try_for_each(|dir| match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).during(|| format!("remove {}", dir.display())),
            _ => Ok(()),
        })
    }
}

fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_size(size);
    header
}

fn text(tar: &mut Builder<impl std::io::Write>, name: &str, value: &Value) -> std::io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value)?;
    tar.append_data(&mut header(bytes.len() as u64), name, &bytes[..])
}

/// A file that is written to meanwhile: as much of it as there was.
fn growing(tar: &mut Builder<impl std::io::Write>, name: &str, file: File) -> std::io::Result<()> {
    let size = file.metadata()?.len();
    tar.append_data(&mut header(size), name, file.chain(std::io::repeat(0)).take(size))
}

fn config(container: &Container, runtime: &str) -> Value {
    let record = &container.record;
    json!({
        "id": container.id,
        "name": record.name,
        "rootfsImage": record.config.image.get_or_default().image,
        "rootfsImageRef": record.image_ref,
        "rootfsImageName": record.image_name,
        "runtime": runtime,
        "createdTime": stamp(record.created_at),
        "checkpointedTime": stamp(super::now()),
        "restoredTime": stamp(0),
        "restored": false,
    })
}

fn status(container: &Container) -> Value {
    let (pid, started_at) = match container.state {
        State::Running { pid, started_at } => (pid, started_at),
        _ => (0, 0),
    };
    json!({
        "CreatedAt": container.record.created_at,
        "StartedAt": started_at,
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": pid,
        "Reason": "",
        "Message": "",
    })
}

fn stamp(nanos: i64) -> String {
    let since = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    humantime::format_rfc3339_nanos(UNIX_EPOCH.checked_add(since).unwrap_or_else(SystemTime::now)).to_string()
}
