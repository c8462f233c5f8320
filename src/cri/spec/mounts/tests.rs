//! Rules of the mount table.
use super::*;

fn asked(container: &str, host: &str) -> cri::Mount {
    cri::Mount { container_path: container.into(), host_path: host.into(), ..Default::default() }
}

fn with(shared: Vec<cri::Mount>, list: &[cri::Mount]) -> Result<Table> {
    let host = Host::plain();
    let images = BTreeMap::new();
    let features = Features { recursive_read_only: true, id_mapped_mounts: true };
    let mut defaults = defaults();
    defaults.push(cgroup(false, true, &host));
    table(Wanted { defaults, shared, asked: list, images: &images, selinux: None, label: "", features }, &host)
}

fn at(table: &Table) -> Vec<&str> {
    table.mounts.iter().map(|m| m.destination.as_str()).collect()
}

#[test]
fn mounts_of_the_request_win_over_the_pods_and_the_default_ones() {
    let made =
        with(vec![asked("/etc/hosts", "/tmp"), asked("/dev/shm", "/tmp")], &[asked("/etc//hosts", "/usr"), asked("/sys", "/usr")]).unwrap();
    assert_eq!(at(&made), ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys/fs/cgroup", "/sys", "/etc/hosts", "/dev/shm"]);
    assert_eq!(made.mounts[6].source, "/usr");
}

#[test]
fn a_mount_on_dev_drops_the_defaults_beneath_it() {
    assert_eq!(at(&with(vec![], &[asked("/dev", "/tmp")]).unwrap()), ["/proc", "/sys", "/sys/fs/cgroup", "/dev"]);
}

#[test]
fn higher_mounts_come_first() {
    let made = with(vec![asked("/a/b/c", "/tmp")], &[asked("/a/b", "/tmp"), asked("/x", "/tmp"), asked("/a", "/tmp")]).unwrap();
    assert_eq!(at(&made)[7..], ["/x", "/a", "/a/b", "/a/b/c"]);
}

#[test]
fn missing_sources_are_made_and_links_resolved() {
    let dir = std::env::temp_dir().join(format!("cradle-spec-mounts-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("real")).unwrap();
    std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.join("broken")).unwrap();
    let path = |p: &str| dir.join(p).display().to_string();
    let made = with(vec![], &[asked("/x", &path("link/new/deep")), asked("/y", &path("link"))]).unwrap();
    assert_eq!(made.actions, [Action::CreateDir(dir.join("real/new/deep"))]);
    assert_eq!(made.mounts.last().unwrap().source, path("real"));
    assert!(with(vec![], &[asked("/x", &path("broken"))]).unwrap_err().chain().contains("link to nowhere"));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn mount_options_take_rights_away_and_nothing_else() {
    let one = |options: &[&str]| cri::Mount { mount_options: options.iter().map(|o| o.to_string()).collect(), ..asked("/x", "/tmp") };
    let made = with(vec![], &[one(&["noexec", "nosuid"])]).unwrap();
    assert_eq!(made.mounts.last().unwrap().options, ["rbind", "rprivate", "rw", "noexec", "nosuid"]);
    for odd in ["exec", "suid", "rshared", "lowerdir=/"] {
        assert!(with(vec![], &[one(&[odd])]).unwrap_err().chain().contains("mounts[0].mount_options"), "{odd}");
    }
}

#[test]
fn bad_fields_are_named() {
    let image_volume = || {
        let image = cri::ImageSpec { image: "i".into(), ..Default::default() };
        cri::Mount { image: protobuf::MessageField::some(image), readonly: true, ..asked("/a", "") }
    };
    let table: [(&str, cri::Mount); 12] = [
        ("readonly", cri::Mount { readonly: false, ..image_volume() }),
        ("host_path", cri::Mount { host_path: "/tmp".into(), ..image_volume() }),
        ("image.image", cri::Mount { image: protobuf::MessageField::some(Default::default()), ..image_volume() }),
        ("container_path", asked("", "/tmp")),
        ("container_path", asked("/a/../..", "/tmp")),
        ("host_path", asked("/a", "tmp")),
        ("host_path", asked("/a", "")),
        ("image_sub_path", cri::Mount { image_sub_path: "x".into(), ..asked("/a", "/tmp") }),
        ("image_sub_path", cri::Mount { image_sub_path: "a/../../x".into(), ..image_volume() }),
        ("propagation", cri::Mount { propagation: protobuf::EnumOrUnknown::from_i32(9), ..asked("/a", "/tmp") }),
        ("recursive_read_only", cri::Mount { recursive_read_only: true, ..asked("/a", "/tmp") }),
        (
            "recursive_read_only",
            cri::Mount {
                recursive_read_only: true,
                readonly: true,
                propagation: MountPropagation::PROPAGATION_BIDIRECTIONAL.into(),
                ..asked("/a", "/tmp")
            },
        ),
    ];
    for (field, mount) in table {
        let error = with(vec![], &[mount]).unwrap_err().chain();
        assert!(error.trim_start_matches("ImageVolumeMountFailed: ").starts_with(&format!("mounts[0].{field}")), "{field}: {error}");
    }
    let rro = cri::Mount { recursive_read_only: true, readonly: true, ..asked("/a", "/tmp") };
    assert!(check(std::slice::from_ref(&rro), Some(Features::default())).unwrap_err().chain().starts_with("RROUnsupported:"));
    assert_eq!(with(vec![], &[rro]).unwrap().mounts.last().unwrap().options, ["rbind", "rprivate", "rro"]);
}

#[test]
fn propagation_needs_a_source_that_propagates() {
    let text =
        "1 0 0:1 / / rw shared:1 - ext4 /dev/a rw\n2 1 0:2 / /p rw - ext4 /dev/a rw\n3 1 0:3 / /s\\040x rw master:5 - ext4 /dev/a rw\n";
    let mounts = Propagations::parse(text);
    mounts.need(Path::new("/x"), Needed::Shared).unwrap();
    mounts.need(Path::new("/s x/y"), Needed::SharedOrSlave).unwrap();
    assert!(mounts.need(Path::new("/s x/y"), Needed::Shared).is_err());
    assert!(mounts.need(Path::new("/p/q"), Needed::SharedOrSlave).unwrap_err().chain().contains("mounted on \"/p\" but it is not"));
}

#[test]
fn relabelling_the_nodes_own_directories_is_refused() {
    let (host, images, contexts) = (Host::plain(), BTreeMap::new(), SelinuxContexts::default());
    let relabel = |path: &str| {
        let list = [cri::Mount { selinux_relabel: true, ..asked("/x", path) }];
        let wanted = Wanted {
            defaults: vec![],
            shared: vec![],
            asked: &list,
            images: &images,
            selinux: Some(&contexts),
            label: "l",
            features: Features::default(),
        };
        table(wanted, &host)
    };
    assert!(relabel("/etc/../etc").unwrap_err().chain().contains("relabeling of /etc is not allowed"));
    assert_eq!(relabel("/usr/share").unwrap().actions, [Action::Relabel { path: "/usr/share".into(), label: "l".into() }]);
}

#[test]
fn privileged_containers_write_sysfs_and_cgroup() {
    let mut all = defaults();
    all.push(cgroup(false, true, &Host::plain()));
    make_writable(&mut all);
    assert!(!all.iter().any(|m| m.options.iter().any(|o| o == "ro")));
}

#[test]
fn a_user_namespace_gets_bound_what_is_the_nodes() {
    use crate::proto::cri::NamespaceMode::{NODE, POD};
    let mut all = defaults();
    bind_nodes_own(&mut all, Modes { network: NODE, pid: POD, ipc: NODE });
    let kind = |at: &str| all.iter().find(|m| m.destination == at).map(|m| (m.kind.as_str(), m.options[1].as_str()));
    assert_eq!((kind("/sys"), kind("/proc")), (Some(("bind", "rro")), Some(("proc", "noexec"))));
    assert_eq!(kind("/dev/mqueue"), Path::new("/dev/mqueue").exists().then_some(("bind", "rw")));
}

#[test]
fn paths_are_cleaned_below_the_root() {
    for (path, want) in [("/../../etc", "/etc"), ("a/b/", "/a/b"), ("//a/./b/../c", "/a/c"), ("/", "/"), ("..", "/")] {
        assert_eq!(clean(path), want, "{path}");
    }
}
