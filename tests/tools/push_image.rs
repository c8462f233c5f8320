//! push-image HOST/REPOSITORY:TAG: pushes an image with Debian's static busybox to a registry on loopback. For `make run`.
#![allow(dead_code, missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "the test harness's own image builder")]
#[path = "../harness/image.rs"]
mod image;
#[path = "../harness/layer.rs"]
mod layer;

fn main() {
    let reference = std::env::args().nth(1).expect("usage: push-image HOST/REPOSITORY:TAG");
    let (name, tag) = reference.rsplit_once(':').expect("the reference needs a tag");
    let (host, repository) = name.split_once('/').expect("the reference needs a host");
    image::Image::busybox().push(&image::Remote::new(host, repository), tag);
    println!("pushed {reference}");
}
