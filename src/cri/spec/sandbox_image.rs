//! Sandbox image: what a pod's own process becomes where an image is configured for it.
use super::check::int;
use super::oci::{Spec, User};
use super::process::{self, ImageProcess};
use super::user::{self, ImageGroups, Wanted};
use crate::error::{Error, Result};
use crate::proto::cri::PodSandboxConfig;
use oci_spec::image::ImageConfiguration;
use std::path::Path;

/// Puts the image's entrypoint, environment, directory and user into a sandbox's spec; a user of the request wins.
pub fn run_sandbox_image(spec: &mut Spec, image: &ImageConfiguration, config: &PodSandboxConfig, root: &Path) -> Result<()> {
    let image = ImageProcess::from(image);
    let process = spec.process.get_or_insert_default();
    process.args = process::args(&[], &[], &image)
        .map_err(|_| Error::precondition("it has neither Entrypoint nor Cmd: configure one that has, or none for the built-in pause"))?;
    process.env = process::env(&[], false, "", &image, &[])?;
    process.env.retain(|v| !v.starts_with("HOSTNAME="));
    process.cwd = process::cwd("", &image);
    let context = config.linux.get_or_default().security_context.get_or_default();
    if context.run_as_user.is_none() && !image.user.is_empty() {
        let named = Wanted { user: image.user, supplemental: context.supplemental_groups.clone(), image_groups: ImageGroups::Ignored };
        let found = user::resolve(&named, Some(root))?;
        let gid = int(&context.run_as_group).and_then(|g| u32::try_from(g).ok()).unwrap_or(found.gid);
        process.user = User { gid, umask: process.user.umask, ..found };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::container::tests::Scene;
    use super::*;
    use crate::cri::store::sandbox::Pins;
    use crate::proto::cri::Int64Value;
    use protobuf::MessageField;
    use serde_json::json;

    fn image(config: serde_json::Value) -> ImageConfiguration {
        serde_json::from_value(
            json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": config}),
        )
        .unwrap()
    }

    #[test]
    fn the_image_says_what_runs_and_the_request_as_whom() {
        let mut scene = Scene::new("sandbox-image");
        let root = scene.dir.join("pause-root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/passwd"), "keeper:x:7:8::/:\n").unwrap();
        let whole = image(json!({"Entrypoint": ["/hold"], "Cmd": ["on"], "Env": ["A=b"], "User": "keeper", "WorkingDir": "srv"}));
        let mut spec = scene.sandbox(&Pins::default());
        run_sandbox_image(&mut spec, &whole, &scene.pod, &root).unwrap();
        let process = spec.process.unwrap();
        assert_eq!(process.args, ["/hold", "on"]);
        assert!(process.env.iter().any(|v| v == "A=b") && process.env[0].starts_with("PATH=/"));
        assert_eq!((process.cwd.as_str(), process.user.uid, process.user.gid), ("/srv", 7, 8));
        scene.pod_context().run_as_user = MessageField::some(Int64Value { value: 9, ..Int64Value::default() });
        let mut spec = scene.sandbox(&Pins::default());
        run_sandbox_image(&mut spec, &whole, &scene.pod, &root).unwrap();
        assert_eq!(spec.process.clone().unwrap().user.uid, 9);
        let error = run_sandbox_image(&mut spec, &image(json!({})), &scene.pod, &root).unwrap_err();
        assert!(error.chain().contains("Entrypoint"), "{}", error.chain());
    }
}
