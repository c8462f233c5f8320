//! AppArmor: the profile asked for is in force, the default one is loaded at need, and one that is not loaded is refused. `make
//! test` tells these in a user-mode Linux (tests/cgroup2.sh), whatever the machine has itself.
use crate::harness::client::container_config;
use crate::harness::{Daemon, RUNTIMES, run_ok};
use cradle::error::Kind;
use cradle::proto::cri::security_profile::ProfileType;
use cradle::proto::cri::{ContainerConfig, SecurityProfile};

/// Lets everything through but writing below `/tmp`.
const PROFILE: &str = "profile cradle-story-no-writes flags=(attach_disconnected) {\n  file,\n  network,\n  capability,\n  mount,\n  signal,\n  \
                       ptrace,\n  deny /tmp/** w,\n}\n";

/// Whether this kernel has what the story is about.
fn in_force() -> bool {
    let on = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|v| v.starts_with('Y'));
    if !on {
        println!("no AppArmor here: tests/cgroup2.sh tells this story");
    }
    on
}

fn with(image: &str, name: &str, kind: ProfileType, reference: &str) -> ContainerConfig {
    let mut config = container_config(name, image, &["sleep", "1000"]);
    let profile = SecurityProfile { profile_type: kind.into(), localhost_ref: reference.into(), ..Default::default() };
    config.linux.mut_or_insert_default().security_context.mut_or_insert_default().apparmor = Some(profile).into();
    config
}

#[test]
fn the_profile_asked_for_is_in_force() {
    if !in_force() {
        return;
    }
    let d = Daemon::start();
    let image = d.busybox();
    let file = d.path("profile");
    std::fs::write(&file, PROFILE).unwrap();
    run_ok("apparmor_parser", &["-r", "-K", &file.display().to_string()]);
    for handler in RUNTIMES {
        let pod = d.pod("guarded", handler);
        let free = pod.start(with(&image, "free", ProfileType::Unconfined, ""));
        assert_eq!(free.says("cat /proc/self/attr/current; touch /tmp/x && echo written"), "unconfined\nwritten", "{handler}");
        let default = pod.start(with(&image, "default", ProfileType::RuntimeDefault, ""));
        assert_eq!(default.says("cat /proc/self/attr/current"), "cri-containerd.apparmor.d (enforce)", "{handler}");
        assert_ne!(default.exec("echo 0 > /proc/sys/kernel/randomize_va_space").code, 0);
        let plain = pod.shell("plain", &image, "sleep 1000");
        assert_eq!(plain.says("cat /proc/1/attr/current"), default.says("cat /proc/1/attr/current"), "{handler}");
        let own = pod.start(with(&image, "own", ProfileType::Localhost, "cradle-story-no-writes"));
        assert_eq!(own.says("cat /proc/self/attr/current"), "cradle-story-no-writes (enforce)", "{handler}");
        assert_ne!(own.exec("touch /tmp/x").code, 0, "{handler}");
        let refused = pod.try_create(with(&image, "none", ProfileType::Localhost, "cradle-story-nosuch")).err().unwrap();
        assert_eq!(refused.kind(), Kind::FailedPrecondition, "{}", refused.chain());
        assert!(refused.chain().contains("cradle-story-nosuch"), "{}", refused.chain());
        pod.remove();
    }
    run_ok("apparmor_parser", &["-R", &file.display().to_string()]);
}
