//! Unit: from systemd's names of slices and scopes to directories of the hierarchy.
use std::borrow::Cow;

/// Where a group without a slice goes: systemd's own for services.
const DEFAULT_SLICE: &str = "system.slice";

/// The path below the root of an OCI spec's `cgroupsPath`: itself, or that of systemd's `slice:prefix:name`.
pub fn path_of(spec: &str) -> Cow<'_, str> {
    let mut parts = spec.splitn(3, ':');
    let (Some(slice), Some(prefix), Some(name)) = (parts.next(), parts.next(), parts.next()) else { return Cow::Borrowed(spec) };
    let parent = slice_path(if slice.is_empty() { DEFAULT_SLICE } else { slice });
    let unit = match (name.ends_with(".slice"), prefix) {
        (true, _) => name.to_string(),
        (false, "") => format!("{name}.scope"),
        (false, prefix) => format!("{prefix}-{name}.scope"),
    };
    Cow::Owned(format!("{parent}/{unit}"))
}

/// The path of a slice: `a-b.slice` is in `a.slice`.
pub fn slice_path(slice: &str) -> String {
    let name = slice.trim_end_matches(".slice");
    // systemd's root slice.
    if name == "-" {
        return String::new();
    }
    let mut path = String::new();
    for (at, _) in name.match_indices('-').chain([(name.len(), "")]) {
        path.push('/');
        path.push_str(&name[..at]);
        path.push_str(".slice");
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_found_in_their_nested_slices() {
        assert_eq!(path_of("/kubepods/pod1/abc"), "/kubepods/pod1/abc");
        let scope = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope";
        assert_eq!(path_of("kubepods-burstable-pod1.slice:cri-containerd:abc"), scope);
        assert_eq!(path_of(":cri-containerd:abc"), "/system.slice/cri-containerd-abc.scope");
        assert_eq!(path_of("-.slice::abc"), "/abc.scope");
        assert_eq!(path_of("a.slice:x:b.slice"), "/a.slice/b.slice");
    }
}
