//! Seccomp: which system calls a container may make. The default follows the public list of Docker and containerd: a call is let
//! through if it is harmless, or if the container has the capability that the kernel asks for anyway.
mod calls;
mod profile;

use crate::error::{Context, Error, Result};
use crate::proto::cri::SecurityProfile;
use crate::proto::cri::security_profile::ProfileType;
use oci_spec::runtime::{Capability, LinuxSeccomp};
use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

pub use profile::default_profile;

/// Far more than any profile has.
const LARGEST: u64 = 4 << 20;

/// What a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing is said.
    Unset,
    /// All calls.
    Unconfined,
    /// The default profile.
    Default,
    /// A file on the node.
    File(String),
}

/// Reads a request's field, or else the deprecated text.
pub fn wish(profile: Option<&SecurityProfile>, text: &str) -> Result<Wish> {
    if let Some(profile) = profile {
        return match profile.profile_type.enum_value() {
            Ok(ProfileType::RuntimeDefault) => Ok(Wish::Default),
            Ok(ProfileType::Unconfined) => Ok(Wish::Unconfined),
            Ok(ProfileType::Localhost) => local(&profile.localhost_ref),
            Err(number) => Err(Error::invalid(format!("seccomp.profile_type: {number} is not known"))),
        };
    }
    match text {
        "" => Ok(Wish::Unset),
        "unconfined" => Ok(Wish::Unconfined),
        "runtime/default" | "docker/default" => Ok(Wish::Default),
        path if path.starts_with("localhost/") => local(path),
        other => Err(Error::invalid(format!("seccomp_profile_path: \"{other}\" is not known"))),
    }
}

fn local(reference: &str) -> Result<Wish> {
    let path = reference.strip_prefix("localhost/").unwrap_or(reference);
    match Path::new(path).is_absolute() {
        true => Ok(Wish::File(path.into())),
        false => Err(Error::invalid(format!("seccomp.localhost_ref: \"{reference}\" is not an absolute path"))),
    }
}

/// The filter of a spec; none lets all calls through.
pub fn filter(wish: &Wish, bounding: &HashSet<Capability>) -> Result<Option<LinuxSeccomp>> {
    match wish {
        Wish::Unset | Wish::Unconfined => Ok(None),
        Wish::Default => default_profile(bounding).map(Some),
        Wish::File(path) => read(path).map(Some),
    }
}

fn read(path: &str) -> Result<LinuxSeccomp> {
    let shown = || format!("seccomp profile {path}");
    let file = std::fs::File::open(path).map_err(|e| Error::precondition(shown()).because(e))?;
    let regular = file.metadata().during(shown)?.is_file();
    let mut text = Vec::new();
    if regular {
        file.take(LARGEST + 1).read_to_end(&mut text).during(shown)?;
    }
    if !regular || text.len() as u64 > LARGEST {
        return Err(Error::precondition(format!("{} is not a regular file of at most {LARGEST} bytes", shown())));
    }
    serde_json::from_slice(&text).map_err(|e| Error::precondition(format!("{} is not an OCI seccomp profile", shown())).because(e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::Scratch;

    #[test]
    fn wishes() {
        let typed = |kind: ProfileType, reference: &str| SecurityProfile {
            profile_type: kind.into(),
            localhost_ref: reference.into(),
            ..SecurityProfile::default()
        };
        let file = Some(Wish::File("/p.json".into()));
        let table = [
            (None, "", Some(Wish::Unset)),
            (None, "unconfined", Some(Wish::Unconfined)),
            (None, "runtime/default", Some(Wish::Default)),
            (None, "docker/default", Some(Wish::Default)),
            (None, "localhost//p.json", file.clone()),
            (None, "/p.json", None),
            (Some(typed(ProfileType::RuntimeDefault, "")), "unconfined", Some(Wish::Default)),
            (Some(typed(ProfileType::Unconfined, "")), "", Some(Wish::Unconfined)),
            (Some(typed(ProfileType::Localhost, "/p.json")), "", file.clone()),
            (Some(typed(ProfileType::Localhost, "localhost//p.json")), "", file),
            (Some(typed(ProfileType::Localhost, "p.json")), "", None),
        ];
        for (profile, text, expected) in table {
            assert_eq!(wish(profile.as_ref(), text).ok(), expected, "{profile:?} {text}");
        }
    }

    #[test]
    fn files() {
        let scratch = Scratch::new("seccomp");
        let path = scratch.path.join("p.json");
        let wish = Wish::File(path.display().to_string());
        assert!(filter(&wish, &HashSet::new()).unwrap_err().chain().contains("p.json"));
        std::fs::write(&path, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#).unwrap();
        let made = filter(&wish, &HashSet::new()).unwrap().unwrap();
        assert_eq!(made.syscalls().as_ref().unwrap()[0].names(), &["mkdir"]);
        std::fs::write(&path, "{").unwrap();
        assert!(filter(&wish, &HashSet::new()).unwrap_err().chain().contains("not an OCI seccomp profile"));
        assert!(filter(&Wish::File("/dev/zero".into()), &HashSet::new()).is_err());
    }
}
