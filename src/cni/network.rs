//! Network: what the conf directory said when it was read. A pod is attached to all of its lists, or to none.
use super::attach::Attach;
use super::cache::Attachment;
use super::conf::{self, List};
use super::plugins::{Invocation, Order, Plugins, Verb};
use super::result::{self, Reported};
use crate::call::Call;
use crate::error::{Error, Kind, Result};
use crate::sys::netns;
use crossbeam_channel::bounded;
use log::info;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// The loaded networks of one conf directory.
pub struct Network {
    lists: Vec<List>,
    conf_dir: PathBuf,
    plugins: Arc<Plugins>,
}

/// What a pod has got.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Its addresses on `eth0`, the preferred one first.
    pub ips: Vec<IpAddr>,
    /// What each network reported.
    pub reported: Vec<Reported>,
    /// Each network's result as the plugins gave it.
    pub results: Vec<Value>,
}

impl Network {
    /// Reads the first `max_conf_num` networks of a directory (0 = all).
    pub fn load(plugins: &Arc<Plugins>, conf_dir: &Path, max_conf_num: usize) -> Result<Network> {
        let lists = conf::load(conf_dir, max_conf_num)?;
        Ok(Network { lists, conf_dir: conf_dir.to_owned(), plugins: plugins.clone() })
    }

    /// The networks, in the order of their interfaces `eth0`, `eth1`, …
    pub fn lists(&self) -> &[List] {
        &self.lists
    }

    /// Where they were read.
    pub fn conf_dir(&self) -> &Path {
        &self.conf_dir
    }

    /// Sets `lo` up and attaches the sandbox to each network in order. On an error all is taken down again; if that fails
    /// too, the attachments stay on disk for [`Plugins::del`] and [`Plugins::gc`].
    pub fn add(&self, call: &Call, attach: &Attach) -> Result<Outcome> {
        attach.check()?;
        let start = Instant::now();
        netns::loopback_up(&attach.netns)?;
        let attachments = self.attachments(attach);
        self.plugins.cache.intend(&attachments)?;
        let outcome = self.add_all(call, &attachments).map_err(|e| {
            // The caller's time may be over; what is half made still has to go.
            let call = call.detached(self.plugins.settings.limit);
            let reverse: Vec<_> = attachments.iter().rev().cloned().collect();
            match self.plugins.del_all(&call, &reverse) {
                Ok(()) => e,
                Err(also) => e.and_also(also),
            }
        })?;
        info!("sandbox {}: network ready, {:?}, {} ms", attach.sandbox_id, outcome.ips, start.elapsed().as_millis());
        Ok(outcome)
    }

    fn add_all(&self, call: &Call, attachments: &[Attachment]) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for (attachment, result) in attachments.iter().zip(self.results(call, attachments)?) {
            outcome.reported.push(result::parse(&result, &attachment.ifname)?);
            outcome.results.push(result);
        }
        let own = outcome.reported.iter().flat_map(|r| &r.interfaces).filter(|i| i.name == "eth0");
        outcome.ips = own.flat_map(|i| &i.addresses).map(|a| a.ip).collect();
        if outcome.ips.is_empty() {
            // Some plugins name the node's end only; their address is the pod's all the same.
            let first = outcome.reported.iter().take(1).flat_map(|r| &r.interfaces);
            outcome.ips = first.flat_map(|i| &i.addresses).map(|a| a.ip).collect();
        }
        if outcome.ips.is_empty() {
            let names: Vec<_> = self.lists.iter().map(|l| l.name.as_str()).collect();
            return Err(Error::new(Kind::Unknown, format!("network {} gave the pod no address", names.join(", "))));
        }
        self.plugins.settings.ip_preference.sort(&mut outcome.ips);
        Ok(outcome)
    }

    /// One result an attachment. On an error no plugin runs any more: all are waited for, since DEL comes next.
    fn results(&self, call: &Call, attachments: &[Attachment]) -> Result<Vec<Value>> {
        if attachments.len() < 2 || self.plugins.settings.order == Order::InTurn {
            return attachments.iter().map(|attachment| add_one(&self.plugins, call, attachment)).collect();
        }
        let (tx, rx) = bounded(attachments.len());
        for (number, attachment) in attachments.iter().cloned().enumerate() {
            let (tx, plugins, call) = (tx.clone(), self.plugins.clone(), call.clone());
            self.plugins.pool.run(move || drop(tx.send((number, add_one(&plugins, &call, &attachment)))));
        }
        drop(tx);
        let mut all: Vec<(usize, Result<Value>)> = rx.iter().collect();
        all.sort_by_key(|(number, _)| *number);
        let ended = all.len();
        let all: Vec<Value> = all.into_iter().map(|(_, result)| result).collect::<Result<_>>()?;
        if ended == attachments.len() { Ok(all) } else { Err(Error::internal("a network's set-up ended without a result")) }
    }

    fn attachments(&self, attach: &Attach) -> Vec<Attachment> {
        let one = |(number, list): (usize, &List)| Attachment {
            sandbox_id: attach.sandbox_id.clone(),
            ifname: format!("eth{number}"),
            netns: attach.netns.clone(),
            args: attach.args(),
            capabilities: attach.capabilities(),
            list: list.clone(),
            result: None,
        };
        self.lists.iter().enumerate().map(one).collect()
    }

    /// Takes the sandbox's networks down as they were set up; if nothing is known of it, as these networks would have.
    /// Repeating it is free.
    pub fn del(&self, call: &Call, attach: &Attach) -> Result<()> {
        attach.check()?;
        if self.plugins.del(call, &attach.sandbox_id)? > 0 {
            return Ok(());
        }
        let reverse: Vec<_> = self.attachments(attach).into_iter().rev().collect();
        self.plugins.del_all(call, &reverse)
    }

    /// Asks the plugins whether the sandbox's networks are still as they were made.
    pub fn check(&self, call: &Call, sandbox_id: &str) -> Result<()> {
        for attachment in self.plugins.cache.of(sandbox_id)? {
            let list = &attachment.list;
            if list.disable_check || !list.at_least((0, 4, 0)) {
                continue;
            }
            for plugin in &list.plugins {
                let extra = attachment.result.clone().map(|r| ("prevResult", r));
                self.plugins.invoke(call, Invocation { verb: Verb::Check, list, plugin, attachment: Some(&attachment), extra })?;
            }
        }
        Ok(())
    }

    /// Asks plugins that know the question (CNI 1.1) whether they can take pods.
    pub fn status(&self, call: &Call) -> Result<()> {
        for list in self.lists.iter().filter(|l| l.at_least((1, 1, 0))) {
            for plugin in &list.plugins {
                self.plugins.invoke(call, Invocation { verb: Verb::Status, list, plugin, attachment: None, extra: None })?;
            }
        }
        Ok(())
    }

    /// Tells plugins that know it (CNI 1.1) which attachments are valid, so that they free all others. Not while a pod is attached.
    pub fn gc(&self, call: &Call) -> Result<()> {
        let all = self.plugins.cache.all()?;
        let mut failed: Option<Error> = None;
        for list in self.lists.iter().filter(|l| l.at_least((1, 1, 0)) && !l.disable_gc) {
            let ours = all.iter().filter(|a| a.list.name == list.name);
            let ours: Vec<_> = ours.map(|a| json!({"containerID": a.sandbox_id, "ifname": a.ifname})).collect();
            for plugin in &list.plugins {
                let extra = Some(("cni.dev/valid-attachments", json!(ours)));
                if let Err(e) = self.plugins.invoke(call, Invocation { verb: Verb::Gc, list, plugin, attachment: None, extra }) {
                    failed = Some(match failed {
                        Some(first) => first.and_also(e),
                        None => e,
                    });
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn add_one(plugins: &Plugins, call: &Call, attachment: &Attachment) -> Result<Value> {
    let list = &attachment.list;
    let mut previous = None;
    for plugin in &list.plugins {
        let extra = previous.map(|r| ("prevResult", r));
        let what = Invocation { verb: Verb::Add, list, plugin, attachment: Some(attachment), extra };
        previous = Some(
            plugins
                .invoke(call, what)?
                .ok_or_else(|| Error::new(Kind::Unknown, format!("a plugin of network {} ended well but gave no result", list.name)))?,
        );
    }
    let result = previous.unwrap_or(Value::Null);
    plugins.cache.done(attachment, &result)?;
    Ok(result)
}
