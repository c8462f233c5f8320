//! Images that cannot be named, or not be had.
use super::{Case, bad, refuse};
use crate::harness::client::{image_spec, some};
use cradle::error::Kind::{InvalidArgument, Unknown};
use cradle::proto::cri::*;
use cradle::proto::cri_methods::image_service as images;

fn pull(what: &'static str, says: &'static str, name: &'static str) -> Case {
    bad((&images::PULL_IMAGE, what), InvalidArgument, says, move |_| PullImageRequest { image: image_spec(name), ..Default::default() })
}

#[test]
fn images_that_cannot_be() {
    let long: &'static str = Box::leak(format!("localhost/{}", "a".repeat(100_000)).into_boxed_str());
    let cases = vec![
        bad((&images::PULL_IMAGE, "no image"), InvalidArgument, "image.image", |_| PullImageRequest::default()),
        bad((&images::REMOVE_IMAGE, "no image"), InvalidArgument, "image.image", |_| RemoveImageRequest::default()),
        bad((&images::IMAGE_STATUS, "no image"), InvalidArgument, "image.image", |_| ImageStatusRequest::default()),
        pull("upper case", "lower case", "localhost/UPPER"),
        pull("a path", "repository", "localhost/../../etc/passwd"),
        pull("blanks", "image reference", "local host/a b"),
        pull("a line break", "image reference", "localhost/a\nb"),
        pull("a bad digest", "digest", "localhost/a@sha256:short"),
        pull("an unknown algorithm", "digest", "localhost/a@md5:00000000000000000000000000000000"),
        pull("a bad tag", "tag", "localhost/a:-b"),
        pull("100 kB", "255", long),
        bad((&images::PULL_IMAGE, "nobody listens"), Unknown, "RegistryUnavailable", |_| PullImageRequest {
            image: image_spec("127.0.0.1:1/a/b:1"),
            ..Default::default()
        }),
        bad((&images::PULL_IMAGE, "no base64"), InvalidArgument, "auth", |w| PullImageRequest {
            image: image_spec(&w.image),
            auth: some(AuthConfig { auth: "%%%".into(), ..Default::default() }),
            ..Default::default()
        }),
    ];
    refuse(&cases);
}
