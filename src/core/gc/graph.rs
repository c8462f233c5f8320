//! The graph: what records refer to what, and what the roots reach.
//!
//! Roots are images, live leases, containers' and sandboxes' snapshots, and whatever has a label `containerd.io/gc.root`.
//! Edges are the labels `containerd.io/gc.ref.content[.x]` and `containerd.io/gc.ref.snapshot.<snapshotter>[.x]`, and a
//! snapshot's parent. The labels `containerd.io/gc.bref.{content,image,container}[.x]` and `….bref.snapshot.<snapshotter>[.x]`
//! are edges backwards: what carries them is kept by what they name.
use crate::core::container::Container;
use crate::core::content::{Blob, Digest};
use crate::core::image::Image;
use crate::core::lease::{Held, Lease, Resource};
use crate::core::metadata::{Labels, Record, Writer};
use crate::core::sandbox::Sandbox;
use crate::core::snapshot::{self, scoped, unscoped};
use crate::error::Result;
use log::warn;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

const ROOT: &str = "containerd.io/gc.root";
const CONTENT: &str = "containerd.io/gc.ref.content";
const BACK: &str = "containerd.io/gc.bref.";
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

/// What can be garbage.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Node {
    /// A blob as a namespace has it.
    Content { ns: String, digest: String },
    /// A snapshot by its scoped key.
    Snapshot { snapshotter: String, key: String },
}

/// All snapshots by snapshotter.
pub(super) type Snapshots = BTreeMap<String, Vec<snapshot::Info>>;

/// One state of the node's records.
#[derive(Default)]
pub(super) struct Graph {
    edges: HashMap<Node, Vec<Node>>,
    roots: Vec<Node>,
    /// Kept, but what they refer to is not kept with them.
    flat: Vec<Node>,
    /// Namespaces with a root that cannot be read: nobody knows what it keeps, so nothing of them is removed.
    frozen: BTreeSet<String>,
    /// Leases whose time is over.
    pub(super) expired: Vec<(String, String)>,
    /// Images whose time is over.
    pub(super) expired_images: Vec<(String, String)>,
    /// (namespace, name) of the images and of the containers there are: what names them is kept.
    images: HashSet<(String, String)>,
    containers: HashSet<(String, String)>,
}

impl Graph {
    /// Reads all records, in the collector's transaction.
    pub(super) fn read(w: &Writer, snapshots: &Snapshots, now: SystemTime) -> Result<Graph> {
        let mut graph = Graph::default();
        graph.read_images(w, now)?;
        graph.read_leases(w, now)?;
        graph.read_users(w, snapshots)?;
        for (ns, digest, blob) in w.scan::<Blob>()?.good {
            let node = Node::Content { ns: ns.clone(), digest };
            graph.object(node, &ns, &blob.labels, vec![]);
        }
        for (snapshotter, infos) in snapshots {
            for info in infos {
                let (ns, _) = unscoped(&info.name).unwrap_or_default();
                let at = |key: &str| Node::Snapshot { snapshotter: snapshotter.clone(), key: key.to_owned() };
                let parent = info.parent.iter().map(|parent| at(parent)).collect();
                graph.object(at(&info.name), ns, &info.labels, parent);
            }
        }
        Ok(graph)
    }
    /// Whether the collector must keep its hands off a namespace.
    pub(super) fn is_frozen(&self, ns: &str) -> bool {
        self.frozen.contains(ns)
    }
    /// All that the roots reach.
    pub(super) fn reached(&self) -> HashSet<&Node> {
        let mut reached: HashSet<&Node> = HashSet::new();
        let mut ahead: Vec<&Node> = self.roots.iter().collect();
        while let Some(node) = ahead.pop() {
            if reached.insert(node) {
                ahead.extend(self.edges.get(node).into_iter().flatten());
            }
        }
        reached.extend(&self.flat);
        reached
    }
    fn read_images(&mut self, w: &Writer, now: SystemTime) -> Result<()> {
        for (ns, name, image) in self.scan::<Image>(w)? {
            if image.expires_at().is_some_and(|end| end <= now) {
                self.expired_images.push((ns, name));
                continue;
            }
            self.images.insert((ns.clone(), name));
            self.roots.push(content(&ns, &image.target.digest));
            self.roots.extend(references(&ns, &image.labels));
        }
        Ok(())
    }
    fn read_leases(&mut self, w: &Writer, now: SystemTime) -> Result<()> {
        let held = self.scan::<Held>(w)?.into_iter().map(|(ns, id, held)| ((ns, id), held));
        let mut held: HashMap<(String, String), Held> = held.collect();
        for (ns, id, lease) in self.scan::<Lease>(w)? {
            if lease.expires_at().is_some_and(|end| end <= now) {
                self.expired.push((ns, id));
                continue;
            }
            let held = held.remove(&(ns.clone(), id)).unwrap_or_default();
            for resource in held.resources {
                let nodes = match resource {
                    Resource::Content(digest) => vec![content(&ns, &digest)],
                    Resource::Snapshot { snapshotter, key } => snapshot(&ns, &snapshotter, &key),
                    Resource::Ingest(_) => vec![],
                };
                if lease.is_flat() { self.flat.extend(nodes) } else { self.roots.extend(nodes) }
            }
        }
        Ok(())
    }
    /// Containers and sandboxes.
    fn read_users(&mut self, w: &Writer, snapshots: &Snapshots) -> Result<()> {
        for (ns, id, container) in self.scan::<Container>(w)? {
            self.containers.insert((ns.clone(), id));
            self.roots.extend(snapshot(&ns, &container.snapshotter, &container.snapshot_key));
            self.roots.extend(references(&ns, &container.labels));
        }
        for (ns, id, sandbox) in self.scan::<Sandbox>(w)? {
            self.roots.extend(references(&ns, &sandbox.labels));
            // Where a sandbox has a root of its own, the snapshot's key is the sandbox's ID.
            self.roots.extend(snapshots.keys().flat_map(|snapshotter| snapshot(&ns, snapshotter, &id)));
        }
        Ok(())
    }
    fn scan<R: Record>(&mut self, w: &Writer) -> Result<Vec<(String, String, R)>> {
        let scan = w.scan::<R>()?;
        for (ns, key) in scan.bad {
            warn!("gc: nothing of namespace {ns} is removed while record {}/{ns}/{key} cannot be read; delete or repair it", R::TABLE);
            self.frozen.insert(ns);
        }
        Ok(scan.good)
    }
    fn object(&mut self, node: Node, ns: &str, labels: &Labels, mut edges: Vec<Node>) {
        edges.extend(references(ns, labels));
        if labels.contains_key(ROOT) {
            self.roots.push(node.clone());
        }
        for (label, value) in labels {
            self.back(&node, ns, label.strip_prefix(BACK).unwrap_or_default(), value);
        }
        self.edges.entry(node).or_default().extend(edges);
    }

    /// An edge to `node` from what its label names, which may come later or not at all.
    fn back(&mut self, node: &Node, ns: &str, what: &str, value: &str) {
        let (what, rest) = what.split_once(['.', '/']).unwrap_or((what, ""));
        let named = (ns.to_owned(), value.to_owned());
        match what {
            "image" if self.images.contains(&named) => self.roots.push(node.clone()),
            "container" if self.containers.contains(&named) => self.roots.push(node.clone()),
            "content" => self.edges.entry(Node::Content { ns: named.0, digest: named.1 }).or_default().push(node.clone()),
            "snapshot" => {
                let snapshotter = rest.split(['.', '/']).next().unwrap_or(rest);
                for from in snapshot(ns, snapshotter, value) {
                    self.edges.entry(from).or_default().push(node.clone());
                }
            }
            _ => {}
        }
    }
}

fn content(ns: &str, digest: &Digest) -> Node {
    Node::Content { ns: ns.to_owned(), digest: digest.to_string() }
}

/// A key may be given as the namespace knows it or scoped. One that could be either keeps both: rather too much.
fn snapshot(ns: &str, snapshotter: &str, key: &str) -> Vec<Node> {
    let at = |key: String| Node::Snapshot { snapshotter: snapshotter.to_owned(), key };
    let mut nodes = vec![at(scoped(ns, key))];
    if unscoped(key).is_some_and(|(of, _)| of == ns) {
        nodes.push(at(key.to_owned()));
    }
    nodes
}

/// What labels refer to.
fn references(ns: &str, labels: &Labels) -> Vec<Node> {
    let mut nodes = vec![];
    for (label, value) in labels {
        if let Some(name) = label.strip_prefix(SNAPSHOT) {
            let snapshotter = name.split(['.', '/']).next().unwrap_or(name);
            nodes.extend(snapshot(ns, snapshotter, value));
        } else if label.strip_prefix(CONTENT).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/'])) {
            nodes.push(Node::Content { ns: ns.to_owned(), digest: value.clone() });
        }
    }
    nodes
}
