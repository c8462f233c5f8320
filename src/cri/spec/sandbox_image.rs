//! Sandbox image: what a pod's own process becomes where an image is configured for it.
use super::users;
use crate::error::{Error, Result};
use crate::proto::cri::PodSandboxConfig;
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime::{Process, Spec};
use std::path::Path;

/// As containerd has it for images that set none.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Puts the image's entrypoint, environment, directory and user into a sandbox's spec; a user of the request wins.
pub fn run_sandbox_image(spec: &mut Spec, image: &ImageConfiguration, config: &PodSandboxConfig, root: &Path) -> Result<()> {
    let of_image = image.config().clone().unwrap_or_default();
    let mut args = of_image.entrypoint().clone().unwrap_or_default();
    args.extend(of_image.cmd().clone().unwrap_or_default());
    if args.is_empty() {
        return Err(Error::precondition("it has neither Entrypoint nor Cmd: configure one that has, or none for the built-in pause"));
    }
    let mut env = of_image.env().clone().unwrap_or_default();
    if !env.iter().any(|v| v.starts_with("PATH=")) {
        env.insert(0, PATH.into());
    }
    let mut process: Process = spec.process().clone().unwrap_or_default();
    let cwd = Path::new("/").join(of_image.working_dir().clone().unwrap_or_default());
    process.set_args(Some(args)).set_env(Some(env)).set_cwd(cwd);
    let context = config.linux.get_or_default().security_context.get_or_default();
    let named = of_image.user().clone().unwrap_or_default();
    if context.run_as_user.is_none() && !named.is_empty() {
        let (uid, gid) = users::of_image(root, &named)?;
        let mut user = process.user().clone();
        user.set_uid(uid);
        if context.run_as_group.is_none() {
            user.set_gid(gid);
        }
        process.set_user(user);
    }
    spec.set_process(Some(process));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::fixture;
    use super::super::host::Host;
    use super::*;
    use crate::proto::cri::Int64Value;
    use protobuf::MessageField;

    fn image(change: impl FnOnce(&mut oci_spec::image::Config)) -> ImageConfiguration {
        let (mut image, mut config) = (ImageConfiguration::default(), oci_spec::image::Config::default());
        change(&mut config);
        image.set_config(Some(config));
        image
    }

    #[test]
    fn the_image_says_what_runs_and_the_request_as_whom() {
        let mut f = fixture(Host::for_tests());
        let root = f.scratch.path.join("root");
        std::fs::write(root.join("etc/passwd"), "keeper:x:7:8::/:\n").unwrap();
        let whole = image(|c| {
            c.set_entrypoint(Some(vec!["/hold".into()])).set_cmd(Some(vec!["on".into()])).set_env(Some(vec!["A=b".into()]));
            c.set_user(Some("keeper".into())).set_working_dir(Some("srv".into()));
        });
        let mut spec = f.sandbox().unwrap();
        run_sandbox_image(&mut spec, &whole, &f.pod, &root).unwrap();
        let process = serde_json::to_value(spec.process()).unwrap();
        assert_eq!(process["args"], serde_json::json!(["/hold", "on"]));
        assert_eq!(process["env"], serde_json::json!([PATH, "A=b"]));
        assert_eq!((&process["cwd"], &process["user"]["uid"], &process["user"]["gid"]), (&"/srv".into(), &7.into(), &8.into()));
        let context = f.pod.linux.mut_or_insert_default().security_context.mut_or_insert_default();
        context.run_as_user = MessageField::some(Int64Value { value: 9, ..Int64Value::default() });
        let mut spec = f.sandbox().unwrap();
        run_sandbox_image(&mut spec, &whole, &f.pod, &root).unwrap();
        assert_eq!(spec.process().as_ref().unwrap().user().uid(), 9);
        let error = run_sandbox_image(&mut spec, &image(|_| {}), &f.pod, &root).unwrap_err();
        assert!(error.chain().contains("Entrypoint"), "{}", error.chain());
    }
}
