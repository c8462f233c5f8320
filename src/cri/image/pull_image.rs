//! PullImage: after Ok the image can be run, under its tag, digest and ID. Ends at once when the client leaves.
use crate::call::Call;
use crate::core::image::{self, Platform};
use crate::core::snapshot::Labels;
use crate::cri::store::image::{MANAGED, PINNED};
use crate::cri::{Cri, NAMESPACE};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::proto::cri::{PullImageRequest, PullImageResponse};
use crate::remote::auth::{AuthFields, Login};
use crate::remote::pull::Request;
use crate::remote::reference::Reference;
use log::info;
use std::time::Instant;

/// PullImage.
pub fn pull_image(cri: &Cri, call: &Call, req: PullImageRequest) -> Result<PullImageResponse> {
    let wanted = req.image.get_or_default();
    if wanted.image.is_empty() {
        return Err(Error::invalid("image.image is empty: name the image to pull"));
    }
    let reference = Reference::parse(&wanted.image)?;
    let auth = req.auth.get_or_default();
    let login = Login::from_fields(AuthFields {
        username: &auth.username,
        password: &auth.password,
        auth: &auth.auth,
        server_address: &auth.server_address,
        identity_token: &auth.identity_token,
        registry_token: &auth.registry_token,
    })?;
    let begun = Instant::now();
    let labels = labels(cri, &reference.to_string());
    let pulled = cri.ports.puller.pull(
        call,
        Request {
            namespace: NAMESPACE.into(),
            reference: wanted.image.clone(),
            login,
            snapshotter: cri.snapshotter_for(&wanted.runtime_handler),
            labels: labels.clone(),
            platform: Platform::host(),
        },
    )?;
    failpoint::reach("pull-before-names");
    let image_ref = name_all(cri, &reference, &pulled, &labels)?;
    info!("image {reference} pulled: {image_ref}, {} ms", begun.elapsed().as_millis());
    Ok(PullImageResponse { image_ref, ..PullImageResponse::default() })
}

fn labels(cri: &Cri, name: &str) -> Labels {
    let mut labels = Labels::from([(MANAGED.to_string(), "managed".to_string())]);
    if cri.images_config.pinned_images.values().any(|pinned| Reference::parse(pinned).is_ok_and(|p| p.to_string() == name)) {
        labels.insert(PINNED.into(), "pinned".into());
    }
    labels
}

/// Gives the image the names that CRI's users know: besides the tag its digest and its ID.
fn name_all(cri: &Cri, reference: &Reference, pulled: &image::Image, labels: &Labels) -> Result<String> {
    let resolved = image::manifest(&cri.ports.content, NAMESPACE, &pulled.target, &Platform::host())?;
    let id = resolved.id().to_string();
    let by_digest = format!("{}@{}", reference.name(), pulled.target.digest);
    for name in [by_digest, id.clone()] {
        cri.ports.images.upsert(NAMESPACE, image::Image { name, labels: labels.clone(), ..pulled.clone() })?;
    }
    cri.images.reload()?;
    Ok(id)
}
