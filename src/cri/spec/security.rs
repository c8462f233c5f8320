//! AppArmor and SELinux fields of a spec.
use super::actions::Action;
use super::host::{Host, SelinuxContexts};
use crate::config::CriRuntime;
use crate::error::{Context, Error, Result};
use crate::proto::cri;

/// The profile that we load ourselves, under containerd's name.
pub const APPARMOR_DEFAULT: &str = "cri-containerd.apparmor.d";

/// The host as the config lets us see it.
pub fn allowed_apparmor(host: &Host, runtime: &CriRuntime) -> Host {
    Host { apparmor: host.apparmor && !runtime.disable_apparmor, ..host.clone() }
}

/// An AppArmor profile's name and, if it is ours and not loaded, the order to load it.
pub type AppArmor = (String, Option<Action>);

/// The profile of a container; empty is unconfined.
pub fn apparmor(field: Option<&cri::SecurityProfile>, deprecated: &str, privileged: bool, host: &Host) -> Result<AppArmor> {
    use cri::security_profile::ProfileType;
    const AT: &str = "linux.security_context.apparmor";
    let (kind, reference) = match field {
        Some(profile) => {
            let kind = profile.profile_type.enum_value().map_err(|n| Error::invalid(format!("{AT}.profile_type: unknown value {n}")))?;
            (Some(kind), profile.localhost_ref.as_str())
        }
        None => match deprecated {
            "" => (None, ""),
            "unconfined" => (Some(ProfileType::Unconfined), ""),
            "runtime/default" => (Some(ProfileType::RuntimeDefault), ""),
            name if name.starts_with("localhost/") => (Some(ProfileType::Localhost), name),
            other => return Err(Error::invalid(format!("{AT}_profile: {other:?} is none of unconfined, runtime/default, localhost/NAME"))),
        },
    };
    if kind.is_some_and(|k| k != ProfileType::Localhost) && !reference.is_empty() {
        return Err(Error::invalid(format!("{AT}.localhost_ref: only for profile type Localhost")));
    }
    let unconfined = Ok((String::new(), None));
    if !host.apparmor {
        return match kind {
            None | Some(ProfileType::Unconfined) => unconfined,
            Some(_) => Err(Error::precondition(format!("{AT}: AppArmor is not in force on this node"))),
        };
    }
    match kind {
        Some(ProfileType::Unconfined) => unconfined,
        None | Some(ProfileType::RuntimeDefault) if privileged => unconfined,
        None | Some(ProfileType::RuntimeDefault) => match loaded(APPARMOR_DEFAULT, host)? {
            true => Ok((APPARMOR_DEFAULT.to_owned(), None)),
            // Nobody asked for it, and it cannot be had.
            false if kind.is_none() && !host.apparmor_parser => unconfined,
            false => Ok((APPARMOR_DEFAULT.to_owned(), Some(Action::LoadAppArmor))),
        },
        Some(ProfileType::Localhost) => {
            let name = reference.strip_prefix("localhost/").unwrap_or(reference);
            if name.is_empty() || !loaded(name, host)? {
                return Err(Error::precondition(format!("{AT}: apparmor profile not found {name}: load it with apparmor_parser")));
            }
            Ok((name.to_owned(), None))
        }
    }
}

fn loaded(name: &str, host: &Host) -> Result<bool> {
    let text = std::fs::read_to_string(&host.apparmor_profiles).during(|| format!("read {}", host.apparmor_profiles.display()))?;
    Ok(text.lines().any(|l| l.rsplit_once(" (").is_some_and(|(n, _)| n == name)))
}

/// SELinux labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Of the process.
    pub process: String,
    /// Of its mounts.
    pub mount: String,
}

/// Refuses a level that is none.
pub fn check_selinux(options: &cri::SELinuxOption) -> Result<()> {
    for (value, field) in [(&options.user, "user"), (&options.role, "role"), (&options.type_, "type")] {
        if !value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
            return Err(Error::invalid(format!("linux.security_context.selinux_options.{field}: {value:?} is not an SELinux name")));
        }
    }
    if options.level.is_empty() || level(&options.level).is_some() {
        return Ok(());
    }
    Err(Error::invalid(format!("linux.security_context.selinux_options.level: the format of 'level' {:?} is not correct", options.level)))
}

/// `s0[-s1][:c1[.c2][,c3…]]`.
fn level(text: &str) -> Option<()> {
    let digit = |t: &str| t.len() == 2 && t.starts_with('s') && t.as_bytes()[1].is_ascii_digit();
    let category = |t: &str| t.strip_prefix('c').is_some_and(|n| (1..=4).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()));
    let (sensitivity, categories) = text.split_once(':').map_or((text, None), |(s, c)| (s, Some(c)));
    let fits = match sensitivity.split_once('-') {
        Some((low, high)) => digit(low) && digit(high),
        None => digit(sensitivity),
    };
    let all = categories.is_none_or(|c| c.split(',').all(|c| c.split_once('.').map_or(category(c), |(a, b)| category(a) && category(b))));
    (fits && all).then_some(())
}

/// Labels of a container: the policy's contexts, with what the request changes, on the pod's own level.
pub fn selinux(options: Option<&cri::SELinuxOption>, pod_level: &str, contexts: Option<&SelinuxContexts>) -> Labels {
    let Some(contexts) = contexts else { return Labels::default() };
    let mut process = fields(&contexts.process);
    let mut mount = fields(&contexts.file);
    if let Some(options) = options {
        for (at, value) in [&options.user, &options.role, &options.type_].into_iter().enumerate() {
            if !value.is_empty() {
                process[at] = value.clone();
            }
        }
    }
    let asked = options.map(|o| o.level.as_str()).filter(|l| !l.is_empty());
    if let Some(level) = asked.or(Some(pod_level).filter(|l| !l.is_empty())) {
        process[3] = level.to_owned();
        mount[3] = level.to_owned();
    }
    Labels { process: process.join(":"), mount: mount.join(":") }
}

fn fields(context: &str) -> [String; 4] {
    let mut parts = context.splitn(4, ':').map(str::to_owned);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// A pod's own level: two categories drawn from its id, the same at every look.
pub fn pod_level(id: &str, range: u32) -> String {
    let range = u64::from(range.max(2));
    // FNV-1a: only has to spread.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let first = hash % range;
    let second = (first + 1 + (hash >> 32) % (range - 1)) % range;
    format!("s0:c{},c{}", first.min(second), first.max(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(kind: i32, name: &str) -> cri::SecurityProfile {
        cri::SecurityProfile { profile_type: protobuf::EnumOrUnknown::from_i32(kind), localhost_ref: name.into(), ..Default::default() }
    }

    #[test]
    fn apparmor_follows_field_then_string_then_default() {
        let path = std::env::temp_dir().join(format!("cradle-spec-apparmor-{}", std::process::id()));
        std::fs::write(&path, "mine (enforce)\n/usr/bin/man (enforce)\n").unwrap();
        let host = Host { apparmor: true, apparmor_parser: true, apparmor_profiles: path.clone(), ..Host::plain() };
        let default = (APPARMOR_DEFAULT.to_owned(), Some(Action::LoadAppArmor));
        assert_eq!(apparmor(None, "", false, &host).unwrap(), default);
        let bare = Host { apparmor_parser: false, ..host.clone() };
        assert_eq!(apparmor(None, "", false, &bare).unwrap(), (String::new(), None));
        assert_eq!(apparmor(Some(&profile(0, "")), "", false, &bare).unwrap(), default);
        assert_eq!(apparmor(None, "", true, &host).unwrap().0, "");
        assert_eq!(apparmor(Some(&profile(2, "mine")), "unconfined", true, &host).unwrap().0, "mine");
        assert_eq!(apparmor(None, "localhost/mine", false, &host).unwrap().0, "mine");
        assert!(apparmor(Some(&profile(2, "min")), "", false, &host).unwrap_err().chain().contains("apparmor profile not found"));
        assert!(apparmor(Some(&profile(0, "x")), "", false, &host).is_err());
        assert!(apparmor(Some(&profile(0, "")), "", false, &Host::plain()).is_err());
        assert_eq!(apparmor(None, "", false, &Host::plain()).unwrap().0, "");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn levels_have_their_form() {
        for good in ["s0", "s0-s1", "s0:c1,c2", "s0-s0:c0.c1023", "s0:c1.c3,c5"] {
            assert!(level(good).is_some(), "{good}");
        }
        for bad in ["0", "s10", "s0:", "s0:c", "s0:c12345", "s0:c1,", "s0-s", "s0:c1.c2.c3", "s0:x1"] {
            assert!(level(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn pods_share_their_level_and_requests_change_the_process() {
        let contexts =
            SelinuxContexts { process: "system_u:system_r:container_t:s0".into(), file: "system_u:object_r:container_file_t:s0".into() };
        let options = cri::SELinuxOption { type_: "spc_t".into(), ..Default::default() };
        let labels = selinux(Some(&options), "s0:c1,c2", Some(&contexts));
        assert_eq!(labels.process, "system_u:system_r:spc_t:s0:c1,c2");
        assert_eq!(labels.mount, "system_u:object_r:container_file_t:s0:c1,c2");
        assert_eq!(selinux(Some(&options), "s0", None), Labels::default());
        assert_eq!(pod_level("abc", 1024), pod_level("abc", 1024));
        assert!(level(&pod_level("abc", 1024)).is_some());
    }
}
