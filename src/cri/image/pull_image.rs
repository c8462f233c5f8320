//! PullImage: after Ok the image can be run, under its tag, digest and ID, by the containers of the runtime handler that was
//! named. Ends at once when the client leaves.
use crate::call::Call;
use crate::core::image::Platform;
use crate::core::snapshot::Labels;
use crate::cri::store::image::{MANAGED, handler_label};
use crate::cri::{Cri, NAMESPACE};
use crate::error::{Error, Result};
use crate::proto::cri::{AuthConfig, ImageSpec, PullImageRequest, PullImageResponse};
use crate::remote::auth::{AuthFields, Login};
use crate::remote::pull::{Names, Request};
use crate::remote::reference::Reference;
use log::info;
use std::time::Instant;

/// containerd's way to name the handler before CRI had a field for it.
const HANDLER_ANNOTATION: &str = "io.containerd.cri.runtime-handler";

/// PullImage.
pub fn pull_image(cri: &Cri, call: &Call, req: PullImageRequest) -> Result<PullImageResponse> {
    let wanted = req.image.get_or_default();
    if wanted.image.is_empty() {
        return Err(Error::invalid("image.image is empty: name the image to pull"));
    }
    let reference = Reference::parse(&wanted.image)?;
    let handler = handler(cri, wanted, &req)?;
    let snapshotter = cri.snapshotter_for(handler);
    let labels = Labels::from([(MANAGED.into(), "managed".into()), (handler_label(handler), snapshotter.clone())]);
    let begun = Instant::now();
    let request = Request {
        namespace: NAMESPACE.into(),
        reference: wanted.image.clone(),
        login: login(req.auth.get_or_default())?,
        snapshotter,
        labels,
        platform: Platform::host(),
        target: None,
        names: Names::All,
    };
    let pulled = cri.ports.puller.pull(call, request)?;
    // Others see it by core's events; who pulled it must find it now.
    pulled.names.iter().try_for_each(|name| cri.images.refresh(name))?;
    info!("image {reference} pulled: {}, {} ms", pulled.id, begun.elapsed().as_millis());
    Ok(PullImageResponse { image_ref: pulled.id.to_string(), ..PullImageResponse::default() })
}

/// The handler that the image is for; one that the config does not have is an error that names it.
fn handler<'a>(cri: &Cri, wanted: &'a ImageSpec, req: &'a PullImageRequest) -> Result<&'a str> {
    let annotated = || {
        let of_pod = req.sandbox_config.as_ref().and_then(|pod| pod.annotations.get(HANDLER_ANNOTATION));
        wanted.annotations.get(HANDLER_ANNOTATION).or(of_pod).map_or("", String::as_str)
    };
    let handler = if wanted.runtime_handler.is_empty() { annotated() } else { &wanted.runtime_handler };
    cri.handler(handler).map(|_| handler)
}

fn login(auth: &AuthConfig) -> Result<Login> {
    Login::from_fields(AuthFields {
        username: &auth.username,
        password: &auth.password,
        auth: &auth.auth,
        server_address: &auth.server_address,
        identity_token: &auth.identity_token,
        registry_token: &auth.registry_token,
    })
}
