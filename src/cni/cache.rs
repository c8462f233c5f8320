//! Attachments on disk: what was asked for, durable before the first plugin runs, and the result of it.
//!
//! `<dir>/<sandbox>:<ifname>.conf.json` and `….result.json`; neither part of the name can hold a colon. The result is not
//! synced: it only makes a DEL nicer, and after a power loss the namespace is gone anyway.
use super::conf::List;
use crate::error::{Context, Error, Result};
use log::error;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const CONF: &str = ".conf.json";
const RESULT: &str = ".result.json";

/// One attachment of a sandbox to a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attachment {
    pub sandbox_id: String,
    pub ifname: String,
    pub netns: PathBuf,
    pub args: String,
    pub capabilities: Map<String, Value>,
    pub list: List,
    #[serde(skip)]
    pub result: Option<Value>,
}

/// The directory of attachments.
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub fn open(dir: &Path) -> Result<Cache> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).during(|| format!("create {}", dir.display()))?;
        Ok(Cache { dir: dir.to_owned() })
    }

    /// Notes durably what is about to be attached.
    pub fn intend(&self, all: &[Attachment]) -> Result<()> {
        for attachment in all {
            let text = serde_json::to_vec(attachment).during(|| "write a CNI attachment")?;
            self.write(&self.path(&attachment.sandbox_id, &attachment.ifname, CONF), &text, Sync::Now)?;
        }
        self.sync()
    }

    /// Notes the result of an ADD.
    pub fn done(&self, attachment: &Attachment, result: &Value) -> Result<()> {
        let text = serde_json::to_vec(result).during(|| "write a CNI result")?;
        self.write(&self.path(&attachment.sandbox_id, &attachment.ifname, RESULT), &text, Sync::Later)
    }

    /// Forgets an attachment whose DEL succeeded. After a power loss it may come back, and a second DEL is harmless.
    pub fn forget(&self, attachment: &Attachment) -> Result<()> {
        for kind in [RESULT, CONF] {
            let path = self.path(&attachment.sandbox_id, &attachment.ifname, kind);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).during(|| format!("remove {}", path.display())),
                _ => {}
            }
        }
        Ok(())
    }

    /// The attachments of a sandbox, in the order of their interfaces.
    pub fn of(&self, sandbox_id: &str) -> Result<Vec<Attachment>> {
        self.read(|id| id == sandbox_id)
    }

    /// All attachments; one that cannot be read is logged and left.
    pub fn all(&self) -> Result<Vec<Attachment>> {
        self.read(|_| true)
    }

    fn read(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Attachment>> {
        let mut found = vec![];
        for entry in fs::read_dir(&self.dir).during(|| format!("read {}", self.dir.display()))? {
            let name = entry.during(|| format!("read {}", self.dir.display()))?.file_name();
            let Some((id, rest)) = name.to_str().and_then(|n| n.split_once(':')) else { continue };
            let Some(ifname) = rest.strip_suffix(CONF).filter(|_| wanted(id)) else { continue };
            match self.read_one(id, ifname) {
                Ok(attachment) => found.push(attachment),
                Err(e) => error!("CNI attachment {id}:{ifname} cannot be read, its network is not torn down: {}", e.chain()),
            }
        }
        found.sort_by(|a, b| (&a.sandbox_id, &a.ifname).cmp(&(&b.sandbox_id, &b.ifname)));
        Ok(found)
    }

    fn read_one(&self, id: &str, ifname: &str) -> Result<Attachment> {
        let path = self.path(id, ifname, CONF);
        let text = fs::read(&path).during(|| format!("read {}", path.display()))?;
        let mut attachment: Attachment = serde_json::from_slice(&text).during(|| format!("parse {}", path.display()))?;
        if attachment.sandbox_id != id || attachment.ifname != ifname {
            return Err(Error::internal(format!("{} speaks of another attachment", path.display())));
        }
        attachment.result = fs::read(self.path(id, ifname, RESULT)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Ok(attachment)
    }

    fn path(&self, id: &str, ifname: &str, kind: &str) -> PathBuf {
        self.dir.join(format!("{id}:{ifname}{kind}"))
    }

    fn write(&self, path: &Path, text: &[u8], sync: Sync) -> Result<()> {
        let fresh = path.with_extension("new");
        let write = || {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(text)?;
            if sync == Sync::Now {
                file.sync_data()?;
            }
            fs::rename(&fresh, path)
        };
        write().during(|| format!("write {}", path.display()))
    }

    fn sync(&self) -> Result<()> {
        File::open(&self.dir).and_then(|d| d.sync_all()).during(|| format!("sync {}", self.dir.display()))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Sync {
    Now,
    Later,
}
