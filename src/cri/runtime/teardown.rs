//! Teardown: the reverse of each step that built a pod, each free to repeat, since a stop may have died half-way.
use crate::call::Call;
use crate::cri::store::sandbox::{Network, Pins, Sandbox};
use crate::cri::{Cri, NAMESPACE, image_volumes};
use crate::error::{Context, Error, Kind, Result};
use crate::failpoint;
use crate::sys::{mount, netns};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

const SIGKILL: u32 = 9;
/// How long a killed pod process may take to be gone.
const GONE: Duration = Duration::from_secs(10);

/// Kills and deletes the pod's own task.
pub fn task(cri: &Cri, call: &Call, id: &str) -> Result<()> {
    let task = match cri.ports.tasks.get(NAMESPACE, id) {
        Err(e) if e.is_not_found() => return Ok(()),
        found => found?,
    };
    let exit = task.wait(None)?;
    match task.kill(call, None, SIGKILL, true) {
        // A shim that is gone cannot be told: its containers are being killed, and the deletion waits for that.
        Err(e) if !matches!(e.kind(), Kind::NotFound | Kind::Unavailable) => return Err(e),
        _ => {}
    }
    let _ = exit.recv_timeout(call.remaining(GONE)?);
    match task.delete(call) {
        Err(e) if !e.is_not_found() => Err(e).during(|| format!("delete the process of pod {id}")),
        _ => Ok(()),
    }
}

/// Takes the pod off its networks; needs neither the netns nor the conf file to be there still.
pub fn network(cri: &Cri, call: &Call, sandbox: &Sandbox) -> Result<()> {
    match sandbox.record.network {
        Network::Host | Network::Down => Ok(()),
        Network::Pending | Network::Up { .. } => {
            cri.networks.detach(call, &sandbox.id).during(|| format!("take pod {} off its network", sandbox.record.name))
        }
    }
}

/// Lets go of the pod's namespaces.
pub fn pins(pins: &Pins) -> Result<()> {
    for path in [&pins.net, &pins.ipc, &pins.uts, &pins.user].into_iter().flatten() {
        netns::unpin(path).during(|| format!("let go of namespace {}", path.display()))?;
    }
    Ok(())
}

/// Removes an active snapshot; one that is gone is fine.
pub fn snapshot(cri: &Cri, snapshotter: &str, key: &str) -> Result<()> {
    if key.is_empty() {
        return Ok(());
    }
    match cri.ports.snapshotter(snapshotter)?.remove(key) {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

/// Removes an object's directories under root and state, after unmounting what is mounted there.
pub fn directories(cri: &Cri, kind: &str, id: &str) -> Result<()> {
    for top in [&cri.dirs.state, &cri.dirs.root] {
        let dir = top.join(kind).join(id);
        unmount_under(&dir)?;
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::internal(format!("remove {}", dir.display())).because(e)),
            _ => {}
        }
    }
    Ok(())
}

/// Unmounts all that is mounted under a directory of ours.
pub fn unmount_under(dir: &Path) -> Result<()> {
    mount::unmount_tree(dir, mount::UnmountFlags::empty()).during(|| format!("unmount what is under {}", dir.display()))
}

/// All of a pod but its containers, in the reverse order of its making; its record goes last.
pub fn pod(cri: &Cri, call: &Call, sandbox: &Sandbox) -> Result<()> {
    let id = &sandbox.id;
    task(cri, call, id)?;
    failpoint::reach("remove-after-task");
    network(cri, call, sandbox)?;
    failpoint::reach("remove-after-network");
    pins(&sandbox.record.pins)?;
    image_volumes::remove(cri, sandbox)?;
    if let Some(held) = &sandbox.record.snapshot {
        snapshot(cri, &held.snapshotter, &held.key)?;
    }
    directories(cri, "sandboxes", id)?;
    match cri.ports.sandboxes.delete(NAMESPACE, id) {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}

/// What a creation that failed has made of a container.
pub fn half_made_container(cri: &Cri, id: &str) -> Result<()> {
    let stored = match cri.ports.containers.get(NAMESPACE, id) {
        Err(e) if e.is_not_found() => return directories(cri, "containers", id),
        found => found?,
    };
    snapshot(cri, &stored.snapshotter, &stored.snapshot_key)?;
    directories(cri, "containers", id)?;
    cri.ports.containers.delete(NAMESPACE, id)
}
