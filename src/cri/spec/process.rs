//! The process: command, environment and working directory out of the request and the image.
use super::oci::Process;
use crate::error::{Error, Kind, Result};
use crate::proto::cri;
use oci_spec::image::ImageConfiguration;

/// PATH where neither image nor request has one.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the image says about its process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageProcess {
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Cmd.
    pub cmd: Vec<String>,
    /// Env.
    pub env: Vec<String>,
    /// WorkingDir.
    pub working_dir: String,
    /// User.
    pub user: String,
    /// Volumes, in order.
    pub volumes: Vec<String>,
}

impl From<&ImageConfiguration> for ImageProcess {
    fn from(image: &ImageConfiguration) -> ImageProcess {
        let Some(config) = image.config() else { return ImageProcess::default() };
        let mut volumes = config.volumes().clone().unwrap_or_default();
        volumes.sort();
        ImageProcess {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            volumes,
        }
    }
}

/// Kubernetes' rules: `command` replaces the entrypoint and drops Cmd; `args` replace Cmd.
pub fn args(command: &[String], args: &[String], image: &ImageProcess) -> Result<Vec<String>> {
    let entrypoint: &[String] = if image.entrypoint == [""] { &[] } else { &image.entrypoint };
    let (first, rest) = match (command.is_empty(), args.is_empty()) {
        (true, true) => (entrypoint, image.cmd.as_slice()),
        (true, false) => (entrypoint, args),
        (false, _) => (command, args),
    };
    let all: Vec<String> = first.iter().chain(rest).cloned().collect();
    match all.first() {
        None => Err(Error::invalid("command: no command specified, neither by the request nor by the image")),
        _ => no_nul(&all, "command").map(|()| all),
    }
}

fn no_nul(list: &[String], field: &str) -> Result<()> {
    match list.iter().find(|v| v.contains('\0')) {
        Some(_) => Err(Error::invalid(format!("{field}: has a NUL byte in it"))),
        None => Ok(()),
    }
}

/// Refuses what is no variable, and a HOME that would be a second line of a passwd file (CVE-2022-4318).
pub fn check_env(envs: &[cri::KeyValue]) -> Result<()> {
    for env in envs {
        let key = &env.key;
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(Error::invalid(format!("envs: {key:?} is not a variable's name")));
        }
        let Ok(value) = std::str::from_utf8(&env.value) else {
            return Err(Error::invalid(format!("envs[{key:?}]: the value is not UTF-8, which config.json can not carry")));
        };
        check_variable(key, value)?;
    }
    Ok(())
}

fn check_variable(key: &str, value: &str) -> Result<()> {
    if value.contains('\0') {
        return Err(Error::invalid(format!("envs[{key:?}]: the value has a NUL byte in it")));
    }
    if key == "HOME" && value.contains(['\n', '\r']) {
        return Err(Error::invalid("envs[\"HOME\"]: the value has a line break in it"));
    }
    Ok(())
}

/// PATH, TERM, HOSTNAME, the image's variables, the request's; a later one replaces an earlier in its place.
pub fn env(base: &[String], tty: bool, hostname: &str, image: &ImageProcess, envs: &[cri::KeyValue]) -> Result<Vec<String>> {
    let mut all: Vec<String> = base.to_vec();
    set_variable(&mut all, PATH);
    if tty {
        set_variable(&mut all, "TERM=xterm");
    }
    set_variable(&mut all, &format!("HOSTNAME={hostname}"));
    for variable in &image.env {
        // Without '=' it takes a variable away.
        if let Some((key, value)) = variable.split_once('=') {
            check_variable(key, value).map_err(|e| Error::new(Kind::FailedPrecondition, "the image's environment").because(e))?;
        }
        set_variable(&mut all, variable);
    }
    for env in envs {
        set_variable(&mut all, &format!("{}={}", env.key, String::from_utf8_lossy(&env.value)));
    }
    Ok(all)
}

/// Puts a variable in the place of the one of its name; a name alone takes it away.
pub fn set_variable(all: &mut Vec<String>, variable: &str) {
    let key = variable.split('=').next().unwrap_or_default();
    let at = all.iter().position(|v| v.split('=').next() == Some(key));
    match (at, variable.contains('=')) {
        (Some(at), true) => all[at] = variable.to_owned(),
        (Some(at), false) => drop(all.remove(at)),
        (None, true) => all.push(variable.to_owned()),
        (None, false) => {}
    }
}

/// The request's directory, else the image's, else the root.
pub fn cwd(asked: &str, image: &ImageProcess) -> String {
    match (asked, image.working_dir.as_str()) {
        ("", "") => "/".to_owned(),
        ("", dir) if dir.starts_with('/') => dir.to_owned(),
        ("", dir) => format!("/{dir}"),
        (dir, _) => dir.to_owned(),
    }
}

/// The process of an exec: the container's own identity and environment with another command.
pub fn exec_process(base: &Process, cmd: &[String], tty: bool) -> Result<Process> {
    if cmd.first().is_none_or(|c| c.is_empty()) {
        return Err(Error::invalid("cmd: missing, name the command to run"));
    }
    no_nul(cmd, "cmd")?;
    let mut process = Process { args: cmd.to_vec(), terminal: tty, ..base.clone() };
    process.other.remove("commandLine");
    process.other.remove("consoleSize");
    if tty {
        set_variable(&mut process.env, "TERM=xterm");
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd() {
        let image = ImageProcess { entrypoint: own(&["e"]), cmd: own(&["c"]), ..ImageProcess::default() };
        for (command, arguments, want) in [
            (vec![], vec![], vec!["e", "c"]),
            (vec![], vec!["a"], vec!["e", "a"]),
            (vec!["x"], vec![], vec!["x"]),
            (vec!["x"], vec!["a"], vec!["x", "a"]),
        ] {
            assert_eq!(args(&own(&command), &own(&arguments), &image).unwrap(), want);
        }
        let empty = ImageProcess { entrypoint: own(&[""]), cmd: own(&["c"]), ..ImageProcess::default() };
        assert_eq!(args(&[], &[], &empty).unwrap(), ["c"]);
        assert!(args(&[], &[], &ImageProcess::default()).unwrap_err().chain().contains("no command specified"));
        assert!(args(&own(&["a\0b"]), &[], &image).is_err());
    }

    #[test]
    fn later_variables_replace_earlier_ones_in_place() {
        let image = ImageProcess { env: own(&["PATH=/bin", "A=1", "HOSTNAME"]), ..ImageProcess::default() };
        let envs = [cri::KeyValue { key: "A".into(), value: b"2=3".to_vec(), ..Default::default() }];
        assert_eq!(env(&[], true, "h", &image, &envs).unwrap(), ["PATH=/bin", "TERM=xterm", "A=2=3"]);
        assert_eq!(env(&[], false, "h", &ImageProcess::default(), &[]).unwrap(), [PATH, "HOSTNAME=h"]);
    }

    #[test]
    fn home_with_a_line_break_is_refused_wherever_it_comes_from() {
        for value in ["/root\nx::0:0::/:/bin/sh", "/root\rx"] {
            let envs = [cri::KeyValue { key: "HOME".into(), value: value.into(), ..Default::default() }];
            assert!(check_env(&envs).unwrap_err().chain().contains("HOME"));
            let image = ImageProcess { env: vec![format!("HOME={value}")], ..ImageProcess::default() };
            assert!(env(&[], false, "h", &image, &[]).is_err());
        }
        for (key, value) in [("", "x"), ("A=B", "x"), ("A", "\0")] {
            assert!(check_env(&[cri::KeyValue { key: key.into(), value: value.into(), ..Default::default() }]).is_err());
        }
        assert!(
            check_env(&[cri::KeyValue { key: "A".into(), value: vec![0xff], ..Default::default() }]).unwrap_err().chain().contains("UTF-8")
        );
    }

    #[test]
    fn exec_keeps_identity_and_takes_a_command() {
        let base = Process { args: own(&["a"]), cwd: "/w".into(), env: own(&["TERM=dumb"]), ..Process::default() };
        let exec = exec_process(&base, &own(&["ls", "-l"]), true).unwrap();
        assert_eq!((exec.args, exec.cwd.as_str(), exec.env, exec.terminal), (own(&["ls", "-l"]), "/w", own(&["TERM=xterm"]), true));
        assert!(exec_process(&base, &[], false).unwrap_err().chain().starts_with("cmd"));
    }

    #[test]
    fn working_directory_of_the_request_wins() {
        let image = ImageProcess { working_dir: "app".into(), ..ImageProcess::default() };
        assert_eq!((cwd("/x", &image).as_str(), cwd("", &image).as_str(), cwd("", &ImageProcess::default()).as_str()), ("/x", "/app", "/"));
    }
}
