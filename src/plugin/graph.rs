//! Graph: plugins in dependency order, started one by one, closed in reverse.
use super::context::{Context, Provided};
use super::{Kind, Registration};
use crate::config::Config;
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::thread::Threads;
use log::{debug, info, warn};
use std::collections::HashSet;
use std::sync::Arc;

/// How a plugin's start went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Status {
    /// It runs.
    Ok,
    /// Not started, on purpose or for want of another; why.
    Skipped(String),
    /// Its start failed; why.
    Failed(String),
}

/// The plugins after the start. Dropping it closes them in reverse order.
pub struct Loaded {
    /// Each plugin in start order, and how it went.
    pub plugins: Vec<(&'static Registration, Status)>,
    /// What they offer.
    pub provided: Provided,
    threads: Vec<(String, Arc<Threads>)>,
}

impl Loaded {
    /// Loops that ended by a panic, by plugin.
    pub fn panicked(&self) -> Vec<(String, Vec<String>)> {
        self.threads.iter().map(|(uri, t)| (uri.clone(), t.panicked())).filter(|(_, names)| !names.is_empty()).collect()
    }
    /// Stops and joins all loops, newest plugin first, then lets go of what was offered.
    pub fn close(&mut self) {
        while let Some((uri, threads)) = self.threads.pop() {
            debug!("plugin {uri}: closing");
            threads.shutdown();
        }
        while self.provided.drop_newest() {}
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.close();
    }
}

/// Sorts plugins so that each comes after all of the kinds that it requires. Cycles and duplicates are errors that name them.
pub fn order(plugins: &[&'static Registration]) -> Result<Vec<&'static Registration>> {
    let mut seen = HashSet::new();
    for p in plugins {
        if !seen.insert((p.kind, p.id)) {
            return Err(Error::already_exists("plugin", p.uri()));
        }
    }
    let mut sorted: Vec<&'static Registration> = vec![];
    let mut left: Vec<&'static Registration> = plugins.to_vec();
    while !left.is_empty() {
        let waits =
            |p: &Registration| left.iter().any(|other| p.requires.contains(&other.kind) && (other.kind, other.id) != (p.kind, p.id));
        let (ready, waiting): (Vec<_>, Vec<_>) = left.iter().copied().partition(|p| !waits(p));
        if ready.is_empty() {
            let names: Vec<String> = waiting.iter().map(|p| p.uri()).collect();
            return Err(Error::precondition(format!("plugins require each other in a circle: {}", names.join(", "))));
        }
        sorted.extend(ready);
        left = waiting;
    }
    Ok(sorted)
}

/// Starts all plugins. One that fails takes along only those that require it, unless the config requires it.
pub fn load(plugins: &[&'static Registration], config: &Arc<Config>) -> Result<Loaded> {
    let mut loaded = Loaded { plugins: vec![], provided: Provided::default(), threads: vec![] };
    check_names("required_plugins", &config.required_plugins, plugins)?;
    if let Err(e) = check_names("disabled_plugins", &config.disabled_plugins, plugins) {
        debug!("{}", e.chain());
    }
    for plugin in order(plugins)? {
        let status = start(plugin, config, &mut loaded);
        match &status {
            Status::Ok => info!("plugin {} started", plugin.uri()),
            Status::Skipped(why) => info!("plugin {} skipped: {why}", plugin.uri()),
            Status::Failed(why) => warn!("plugin {} failed: {why}", plugin.uri()),
        }
        if let (Status::Skipped(why) | Status::Failed(why), true) = (&status, config.required_plugins.contains(&plugin.uri())) {
            return Err(Error::precondition(format!("plugin {} is in required_plugins, and did not start: {why}", plugin.uri())));
        }
        loaded.plugins.push((plugin, status));
    }
    Ok(loaded)
}

fn check_names(list: &str, names: &[String], plugins: &[&'static Registration]) -> Result<()> {
    match names.iter().find(|n| !plugins.iter().any(|p| p.uri() == **n)) {
        Some(name) => Err(Error::new(ErrorKind::InvalidArgument, format!("{list}: no plugin \"{name}\"; see cradled plugins"))),
        None => Ok(()),
    }
}

fn start(plugin: &'static Registration, config: &Arc<Config>, loaded: &mut Loaded) -> Status {
    if config.disabled_plugins.contains(&plugin.uri()) {
        return Status::Skipped("in disabled_plugins".into());
    }
    if let Some(kind) = plugin.requires.iter().find(|k| !has(loaded, **k)) {
        let why = loaded.plugins.iter().filter(|(p, _)| p.kind == *kind).map(|(p, s)| format!("{}: {}", p.uri(), text(s)));
        let why: Vec<String> = why.collect();
        let why = if why.is_empty() { "none is built in".into() } else { why.join("; ") };
        return Status::Skipped(format!("requires {}, of which none runs ({why})", kind.uri()));
    }
    let started = Context::new(plugin, config, &mut loaded.provided).and_then(|mut cx| {
        (plugin.start)(&mut cx)?;
        Ok(cx.threads().clone())
    });
    match started {
        Ok(threads) => {
            loaded.provided.add_threads(plugin.uri(), &threads);
            loaded.threads.push((plugin.uri(), threads));
            Status::Ok
        }
        Err(e) => Status::Failed(e.chain()),
    }
}

fn has(loaded: &Loaded, kind: Kind) -> bool {
    loaded.plugins.iter().any(|(p, s)| p.kind == kind && *s == Status::Ok)
}

fn text(status: &Status) -> &str {
    match status {
        Status::Ok => "ok",
        Status::Skipped(why) | Status::Failed(why) => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(set: impl FnOnce(&mut Config)) -> Arc<Config> {
        let mut config = Config::default();
        set(&mut config);
        Arc::new(config)
    }
    fn nothing(_: &mut Context<'_>) -> Result<()> {
        Ok(())
    }
    fn fails(_: &mut Context<'_>) -> Result<()> {
        Err(Error::internal("no disk"))
    }
    const CONTENT: Registration = Registration { kind: Kind::Content, id: "content", requires: &[Kind::Metadata], start: nothing };
    const METADATA: Registration = Registration { kind: Kind::Metadata, id: "redb", requires: &[], start: nothing };
    const BROKEN: Registration = Registration { kind: Kind::Metadata, id: "redb", requires: &[], start: fails };
    const LOOP_A: Registration = Registration { kind: Kind::Gc, id: "a", requires: &[Kind::Lease], start: nothing };
    const LOOP_B: Registration = Registration { kind: Kind::Lease, id: "b", requires: &[Kind::Gc], start: nothing };

    #[test]
    fn required_kinds_come_first() {
        let sorted = order(&[&CONTENT, &METADATA]).unwrap();
        assert_eq!(sorted.iter().map(|p| p.id).collect::<Vec<_>>(), ["redb", "content"]);
    }

    #[test]
    fn circles_and_twins_are_named() {
        assert!(order(&[&LOOP_A, &LOOP_B]).err().unwrap().chain().contains("io.containerd.gc.v1.a, io.containerd.lease.v1.b"));
        assert_eq!(order(&[&CONTENT, &CONTENT]).err().unwrap().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_failed_plugin_takes_along_what_needs_it_with_the_reason() {
        let config = Arc::new(Config::default());
        let loaded = load(&[&CONTENT, &BROKEN], &config).unwrap();
        assert_eq!(loaded.plugins[0].1, Status::Failed("no disk".into()));
        assert!(matches!(&loaded.plugins[1].1, Status::Skipped(why) if why.contains("no disk")));
    }

    #[test]
    fn a_failed_required_plugin_is_an_error_and_a_disabled_one_is_skipped() {
        let required = config(|c| c.required_plugins = vec![BROKEN.uri()]);
        assert!(load(&[&BROKEN], &required).err().unwrap().chain().contains("no disk"));
        let disabled = config(|c| c.disabled_plugins = vec![METADATA.uri()]);
        let loaded = load(&[&METADATA], &disabled).unwrap();
        assert_eq!(loaded.plugins[0].1, Status::Skipped("in disabled_plugins".into()));
        let unknown = config(|c| c.required_plugins = vec!["io.x.y".into()]);
        assert!(load(&[&METADATA], &unknown).is_err());
    }
}
