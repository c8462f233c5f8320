//! Plugins: finds and runs them under a limit, and takes down whatever they were asked to set up.
//!
//! Teardown needs no conf directory: it works from the attachments on disk.
use super::cache::{Attachment, Cache};
use super::conf::{List, plugin_type};
use super::result::IpPreference;
use crate::call::Call;
use crate::error::{Context, Error, Kind, Result};
use crate::sys::netns;
use crate::sys::run::{End, Output, run_holding};
use crate::thread::Pool;
use crossbeam_channel::after;
use log::info;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one plugin may run by default.
pub const LIMIT: Duration = Duration::from_secs(60);
/// More than any result; what a plugin says beyond is not read.
const BOUND: usize = 1 << 20;
/// CNI's code for "try again later".
const TRY_AGAIN: i64 = 11;
/// How often the end of plugins is looked for that nobody waits for.
const TICK: Duration = Duration::from_millis(20);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How plugins are run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where their programs are, first hit wins.
    pub bin_dirs: Vec<PathBuf>,
    /// Where attachments are kept.
    pub cache_dir: PathBuf,
    /// How long one may run before it is killed.
    pub limit: Duration,
    /// Which of a pod's addresses comes first.
    pub ip_preference: IpPreference,
    /// How a pod gets several networks.
    pub order: Order,
}

/// How a pod gets several networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// All at the same time.
    AtOnce,
    /// One when the one before is through.
    InTurn,
}

/// The plugins of this node and what they have set up.
pub struct Plugins {
    pub(super) settings: Settings,
    pub(super) cache: Cache,
    /// Attaches to a pod's further networks at the same time as to its first.
    pub(super) pool: Pool,
}

/// What a plugin shall do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Del => "DEL",
            Verb::Check => "CHECK",
            Verb::Gc => "GC",
            Verb::Status => "STATUS",
        }
    }
}

/// One run of one plugin.
pub(super) struct Invocation<'a> {
    pub verb: Verb,
    pub list: &'a List,
    pub plugin: &'a Map<String, Value>,
    /// Absent for GC and STATUS.
    pub attachment: Option<&'a Attachment>,
    /// `prevResult`, or GC's list of what is valid.
    pub extra: Option<(&'static str, Value)>,
}

impl Plugins {
    /// Opens the cache of attachments.
    pub fn open(settings: Settings) -> Result<Arc<Plugins>> {
        let cache = Cache::open(&settings.cache_dir)?;
        Ok(Arc::new(Plugins { settings, cache, pool: Pool::new("cni-add", 64)? }))
    }

    /// Takes down all networks of a sandbox, each plugin of each chain in reverse; all are tried. Repeating it is free.
    /// Answers how many attachments there were.
    pub fn del(&self, call: &Call, sandbox_id: &str) -> Result<usize> {
        let mut attachments = self.cache.of(sandbox_id)?;
        attachments.reverse();
        self.del_all(call, &attachments)?;
        Ok(attachments.len())
    }

    pub(super) fn del_all(&self, call: &Call, attachments: &[Attachment]) -> Result<()> {
        let mut failed: Option<Error> = None;
        for attachment in attachments {
            let done = self.del_one(call, attachment).and_then(|()| self.cache.forget(attachment));
            if let Err(e) = done {
                failed = Some(match failed {
                    Some(first) => first.and_also(e),
                    None => e,
                });
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn del_one(&self, call: &Call, attachment: &Attachment) -> Result<()> {
        let mut attachment = attachment.clone();
        if !netns::is_pinned(&attachment.netns) {
            // The spec's sign for a namespace that is gone: plugins then free what is on the node.
            attachment.netns = PathBuf::new();
        }
        let list = &attachment.list;
        let mut failed: Option<Error> = None;
        for plugin in list.plugins.iter().rev() {
            let extra = attachment.result.clone().filter(|_| list.at_least((0, 4, 0))).map(|r| ("prevResult", r));
            match self.invoke(call, Invocation { verb: Verb::Del, list, plugin, attachment: Some(&attachment), extra }) {
                Ok(_) => {}
                Err(e) if already_gone(&attachment, &e) => info!("sandbox {}: {}", attachment.sandbox_id, e.chain()),
                Err(e) => {
                    failed = Some(match failed {
                        Some(first) => first.and_also(e),
                        None => e,
                    })
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Sandboxes that are not among the valid ones and were attached to something all the same.
    pub fn stale(&self, valid: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        Ok(self.cache.all()?.into_iter().map(|a| a.sandbox_id).filter(|id| !valid.contains(id)).collect())
    }

    pub(super) fn invoke(&self, call: &Call, what: Invocation<'_>) -> Result<Option<Value>> {
        let name = plugin_type(what.plugin)?;
        let title = || format!("CNI plugin {name}, network {}, {}", what.list.name, what.verb.name());
        let program = self.find(name).during(title)?;
        let limit = call.remaining(self.settings.limit).during(title)?;
        let held = vec![self.presence().during(title)?];
        let output = run_holding(&mut self.command(&program, &what), held, &stdin(&what), limit, BOUND).during(title)?;
        judge(&output, limit).during(title)
    }

    /// A descriptor that each plugin and its children hold, locked: so a daemon that comes back knows of those that run on.
    fn presence(&self) -> Result<OwnedFd> {
        let file = self.lock_file()?;
        // Against an exclusive lock, which is only held for a moment.
        flock(&file, FlockOperation::LockShared).map_err(std::io::Error::from).during(|| "lock the plugins' lock file")?;
        Ok(file.into())
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.settings.cache_dir.with_extension("lock");
        File::options().create(true).append(true).open(&path).during(|| format!("open {}", path.display()))
    }

    /// Waits until no plugin runs that a killed daemon has left: what it still builds could not be taken down. One that leaves a
    /// daemon behind costs the whole limit.
    pub fn settle(&self, limit: Duration) -> Result<()> {
        let (file, until) = (self.lock_file()?, Instant::now() + limit);
        while let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != Errno::WOULDBLOCK || Instant::now() >= until {
                return Err(std::io::Error::from(e))
                    .during(|| format!("wait {} s for network plugins that a killed daemon has left", limit.as_secs()));
            }
            let _ = after(TICK).recv();
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<PathBuf> {
        let dirs = &self.settings.bin_dirs;
        dirs.iter().map(|dir| dir.join(name)).find(|p| p.is_file()).ok_or_else(|| {
            let dirs: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
            Error::precondition(format!("failed to find plugin \"{name}\" in {}", dirs.join(", ")))
        })
    }

    fn command(&self, program: &Path, what: &Invocation<'_>) -> Command {
        let mut command = Command::new(program);
        let (id, netns, ifname, args) = match what.attachment {
            Some(a) => (a.sandbox_id.as_str(), a.netns.as_path(), a.ifname.as_str(), a.args.as_str()),
            None => ("", Path::new(""), "", ""),
        };
        let path = std::env::join_paths(&self.settings.bin_dirs).unwrap_or_else(|_| OsString::new());
        command.env("CNI_COMMAND", what.verb.name()).env("CNI_CONTAINERID", id).env("CNI_NETNS", netns).env("CNI_IFNAME", ifname);
        command.env("CNI_ARGS", args).env("CNI_PATH", path).current_dir("/");
        if std::env::var_os("PATH").is_none() {
            command.env("PATH", PATH);
        }
        command
    }
}

/// A namespace, interface or address that is gone is what DEL is for.
fn already_gone(attachment: &Attachment, e: &Error) -> bool {
    let text = e.chain();
    !text.contains("failed to find plugin")
        && e.kind() != Kind::DeadlineExceeded
        && (text.contains("not found") || (attachment.netns.as_os_str().is_empty() && text.contains("no such file or directory")))
}

/// The plugin's conf with the network's name and version and what it has asked to be told.
fn stdin(what: &Invocation<'_>) -> Vec<u8> {
    let mut conf = what.plugin.clone();
    conf.insert("name".into(), what.list.name.clone().into());
    conf.insert("cniVersion".into(), what.list.version.clone().into());
    if let (Some(attachment), Some(Value::Object(wanted))) = (what.attachment, conf.get("capabilities")) {
        let given: Map<_, _> = attachment
            .capabilities
            .iter()
            .filter(|(name, _)| wanted.get(*name) == Some(&Value::Bool(true)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !given.is_empty() {
            conf.insert("runtimeConfig".into(), given.into());
        }
    }
    if let Some((key, value)) = &what.extra {
        conf.insert((*key).into(), value.clone());
    }
    Value::Object(conf).to_string().into_bytes()
}

fn judge(output: &Output, limit: Duration) -> Result<Option<Value>> {
    let status = match &output.end {
        End::TimedOut => {
            let text = format!("did not end within {limit:.1?} and was killed{}", said(output));
            return Err(Error::new(Kind::DeadlineExceeded, text));
        }
        End::Exited(status) => status,
    };
    let value: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if status.success() {
        // DEL, CHECK, GC and STATUS say nothing; an ADD without a result is the caller's to judge.
        return Ok(value.filter(Value::is_object));
    }
    let text = |key| value.as_ref().and_then(|v| v.get(key)).and_then(Value::as_str).unwrap_or_default();
    if text("msg").is_empty() && text("details").is_empty() {
        return Err(Error::new(Kind::Unknown, format!("failed with {status}{}", said(output))));
    }
    let code = value.as_ref().and_then(|v| v.get("code")).and_then(Value::as_i64).unwrap_or_default();
    let details = Some(text("details")).filter(|d| !d.is_empty()).map(|d| format!("; {d}")).unwrap_or_default();
    let kind = if code == TRY_AGAIN { Kind::Unavailable } else { Kind::Unknown };
    Err(Error::new(kind, format!("{}{details} (code {code})", text("msg"))))
}

fn said(output: &Output) -> String {
    let words = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let words = String::from_utf8_lossy(&words[..words.len().min(1024)]).trim().to_owned();
    if words.is_empty() { String::new() } else { format!("; it said: {words}") }
}
