//! Unpacked: an image that was pulled for another snapshotter is unpacked for this one too, from the blobs that are here.
use super::store::image::Image;
use super::{Cri, NAMESPACE};
use crate::call::Call;
use crate::core::image::Platform;
use crate::core::snapshot::scoped;
use crate::error::{Context, Result};
use crate::remote::auth::Login;
use crate::remote::pull::{Names, Request};
use crate::remote::reference::Reference;
use log::info;

impl Cri {
    /// After Ok the image's layers are snapshots of `snapshotter`, and kept there as long as the image.
    pub fn unpack(&self, call: &Call, image: &Image, snapshotter: &str) -> Result<()> {
        let Some(chain_id) = &image.chain_id else { return Ok(()) };
        match self.ports.snapshotter(snapshotter)?.stat(&scoped(NAMESPACE, chain_id)) {
            Err(e) if e.is_not_found() => {}
            found => return found.map(drop),
        }
        let name = image.names().into_iter().find(|name| Reference::parse(name).is_ok()).unwrap_or_default();
        let request = Request {
            namespace: NAMESPACE.into(),
            login: Login::default(),
            snapshotter: snapshotter.into(),
            labels: Default::default(),
            platform: Platform::host(),
            target: Some(self.ports.images.get(NAMESPACE, &name)?.target),
            names: Names::Kept,
            reference: name,
        };
        self.ports.puller.pull(call, request).during(|| format!("unpack image {} for snapshotter {snapshotter}", image.id))?;
        info!("image {} ({}): unpacked for snapshotter {snapshotter} too", image.name(), image.id);
        Ok(())
    }
}
