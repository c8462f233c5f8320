//! Process: what runs in a container, and what is run beside it.
use super::users::Identity;
use super::{ContainerInput, capabilities, environment, security};
use crate::error::{Error, Result};
use oci_spec::runtime::{Process, User};
use std::path::{Path, PathBuf};

/// The container's own process.
pub fn of_container(input: &ContainerInput<'_>, identity: &Identity) -> Result<Process> {
    let config = input.config;
    let linux = config.linux.get_or_default();
    let context = linux.security_context.get_or_default();
    let mut user = User::default();
    user.set_uid(identity.uid).set_gid(identity.gid).set_additional_gids(Some(identity.groups.clone()));
    let capabilities = match context.privileged {
        true => capabilities::privileged(input.host),
        false => capabilities::of_container(context.capabilities.get_or_default(), input.host)?,
    };
    let score = i32::try_from(linux.resources.get_or_default().oom_score_adj).unwrap_or(0);
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(user)
        .set_args(Some(args(input)?))
        .set_env(Some(environment::of_container(input, &identity.home)?))
        .set_cwd(cwd(input))
        .set_capabilities(Some(capabilities))
        .set_rlimits(None)
        .set_no_new_privileges(Some(context.no_new_privs))
        .set_apparmor_profile(security::apparmor(context, input.host)?)
        .set_selinux_label(security::selinux(context, input.host).map(|labels| labels.process))
        .set_oom_score_adj(Some(input.host.oom_score(score, input.options.restrict_oom_score_adj)));
    Ok(process)
}

/// A command replaces the image's entrypoint and its arguments; arguments alone replace the image's.
fn args(input: &ContainerInput<'_>) -> Result<Vec<String>> {
    let config = input.config;
    let image = input.image.config().as_ref();
    let (mut all, mut rest) = (config.command.clone(), config.args.clone());
    if all.is_empty() {
        if rest.is_empty() {
            rest = image.and_then(|c| c.cmd().clone()).unwrap_or_default();
        }
        all = image.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    }
    all.append(&mut rest);
    match all.first() {
        None => Err(Error::invalid("no command specified: neither the request nor the image has one")),
        Some(_) if all.iter().any(|a| a.contains('\0')) => Err(Error::invalid("command, args: zero byte in an argument")),
        Some(_) => Ok(all),
    }
}

fn cwd(input: &ContainerInput<'_>) -> PathBuf {
    let of_image = || input.image.config().as_ref().and_then(|c| c.working_dir().clone()).unwrap_or_default();
    let asked = if input.config.working_dir.is_empty() { of_image() } else { input.config.working_dir.clone() };
    Path::new("/").join(asked)
}

/// A command run in a container: as its user, with its environment and its rights.
pub fn exec_process(base: &Process, cmd: &[String], tty: bool) -> Result<Process> {
    if cmd.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("cmd is empty: name the command to run"));
    }
    let mut process = base.clone();
    process.set_args(Some(cmd.to_vec())).set_terminal(Some(tty)).set_console_size(None);
    if tty {
        let mut env = process.env().clone().unwrap_or_default();
        if !env.iter().any(|v| v.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        process.set_env(Some(env));
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::fixture;
    use super::super::host::Host;
    use super::*;

    #[test]
    fn a_command_keeps_user_environment_and_rights() {
        let mut f = fixture(Host::for_tests());
        f.config.command = vec!["sh".into()];
        let base = f.build(1).unwrap().spec.process().clone().unwrap();
        let made = exec_process(&base, &["ls".into(), "/".into()], true).unwrap();
        assert_eq!((made.args().clone().unwrap(), made.terminal()), (vec!["ls".into(), "/".into()], Some(true)));
        assert_eq!((made.user(), made.capabilities()), (base.user(), base.capabilities()));
        assert!(made.env().as_ref().unwrap().contains(&"TERM=xterm".to_string()));
        assert_eq!(exec_process(&base, &["ls".into()], false).unwrap().env(), base.env());
        assert!(exec_process(&base, &[], false).is_err() && exec_process(&base, &["".into()], false).is_err());
    }

    #[test]
    fn working_directory() {
        for (asked, of_image, expected) in [("", "", "/"), ("", "app", "/app"), ("", "/srv", "/srv"), ("/x", "/srv", "/x")] {
            let mut f = fixture(Host::for_tests());
            f.config.command = vec!["sh".into()];
            f.config.working_dir = asked.into();
            let mut image = oci_spec::image::Config::default();
            image.set_working_dir(Some(of_image.into()));
            f.image.set_config(Some(image));
            assert_eq!(f.json()["process"]["cwd"], expected);
        }
    }
}
