//! Annotations of the spec: containerd's io.kubernetes.cri.* ones, and of the pod's own only those that the config lets through.
use crate::proto::cri;
use std::collections::{BTreeMap, HashMap};

/// `sandbox` or `container`.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// The pod's id: shims group by it.
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// The pod's image, where the config names one.
pub const SANDBOX_IMAGE: &str = "io.kubernetes.cri.podsandbox.image-name";

/// What the annotations tell of.
pub enum Subject<'a> {
    /// A sandbox.
    Sandbox,
    /// A container.
    Container {
        /// Its name.
        name: &'a str,
        /// Its image.
        image: &'a str,
    },
}

/// containerd's set.
pub fn standard(sandbox_id: &str, pod: &cri::PodSandboxConfig, subject: &Subject<'_>) -> BTreeMap<String, String> {
    let mut set = BTreeMap::new();
    let mut put = |key: &str, value: &str| {
        set.insert(format!("io.kubernetes.cri.{key}"), value.to_owned());
    };
    put("sandbox-id", sandbox_id);
    put("sandbox-namespace", &pod.metadata.namespace);
    put("sandbox-uid", &pod.metadata.uid);
    put("sandbox-name", &pod.metadata.name);
    match subject {
        Subject::Sandbox => {
            put("container-type", "sandbox");
            put("sandbox-log-directory", &pod.log_directory);
            if let Some(sum) = pod.linux.as_ref().and_then(|l| l.resources.as_ref()) {
                put("sandbox-cpu-period", &sum.cpu_period.to_string());
                put("sandbox-cpu-quota", &sum.cpu_quota.to_string());
                put("sandbox-cpu-shares", &sum.cpu_shares.to_string());
                put("sandbox-memory", &sum.memory_limit_in_bytes.to_string());
            }
        }
        Subject::Container { name, image } => {
            put("container-type", "container");
            put("container-name", name);
            put("image-name", image);
        }
    }
    set
}

/// Those of `given` whose key one of the patterns matches.
pub fn passed(given: &HashMap<String, String>, patterns: &[String]) -> BTreeMap<String, String> {
    given.iter().filter(|(k, _)| patterns.iter().any(|p| glob(p.as_bytes(), k.as_bytes()))).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Shell pattern: `*` and `?` stop at a slash, `[a-c]`, `[^x]`, `\` quotes.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.first() {
        None => text.is_empty(),
        Some(b'*') => {
            let run = text.iter().position(|b| *b == b'/').unwrap_or(text.len());
            (0..=run).any(|n| glob(&pattern[1..], &text[n..]))
        }
        Some(b'?') => text.first().is_some_and(|b| *b != b'/') && glob(&pattern[1..], &text[1..]),
        Some(b'[') => match (class(&pattern[1..]), text.first()) {
            (Some((set, negated, used)), Some(c)) => {
                *c != b'/' && set.iter().any(|(lo, hi)| (lo..=hi).contains(&c)) != negated && glob(&pattern[1 + used..], &text[1..])
            }
            _ => false,
        },
        Some(b'\\') if pattern.len() > 1 => text.first() == Some(&pattern[1]) && glob(&pattern[2..], &text[1..]),
        Some(c) => text.first() == Some(c) && glob(&pattern[1..], &text[1..]),
    }
}

/// Ranges of a class, whether it is negated, and its length with the bracket.
type Class = (Vec<(u8, u8)>, bool, usize);

/// The class after an opening bracket.
fn class(pattern: &[u8]) -> Option<Class> {
    let negated = pattern.first() == Some(&b'^');
    let (mut at, mut set) = (usize::from(negated), Vec::new());
    while at < pattern.len() && (pattern[at] != b']' || set.is_empty()) {
        let lo = pattern[at];
        let hi = if pattern.get(at + 1) == Some(&b'-') { *pattern.get(at + 2)? } else { lo };
        at += if pattern.get(at + 1) == Some(&b'-') { 3 } else { 1 };
        set.push((lo, hi));
    }
    (at < pattern.len()).then_some((set, negated, at + 1))
}

/// The RDT or block I/O class that annotations give a container: its own, else the pod's for it, else the pod's.
pub fn class_of(kind: &str, container: &str, own: &HashMap<String, String>, pod: &HashMap<String, String>) -> Option<String> {
    own.get(&format!("io.kubernetes.cri.{kind}-class"))
        .or_else(|| pod.get(&format!("{kind}.resources.beta.kubernetes.io/container.{container}")))
        .or_else(|| pod.get(&format!("{kind}.resources.beta.kubernetes.io/pod")))
        .filter(|v| !v.is_empty())
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_annotations_pass() {
        let given: HashMap<String, String> = [("io.kata/x", "1"), ("io.kata/x/y", "2"), ("org.systemd.property.ExecStart", "evil")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        assert!(passed(&given, &[]).is_empty());
        assert_eq!(passed(&given, &["io.kata/*".into()]).into_keys().collect::<Vec<_>>(), ["io.kata/x"]);
    }

    #[test]
    fn patterns_are_those_of_path_match() {
        for (pattern, text, want) in [
            ("a*c", "abbc", true),
            ("a*c", "ab/c", false),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "", true),
            ("*", "", true),
            ("[", "[", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), want, "{pattern} {text}");
        }
    }

    #[test]
    fn container_annotation_wins_over_the_pods() {
        let map = |l: &[(&str, &str)]| l.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<HashMap<_, _>>();
        let pod = map(&[("rdt.resources.beta.kubernetes.io/pod", "p"), ("rdt.resources.beta.kubernetes.io/container.c", "pc")]);
        assert_eq!(class_of("rdt", "c", &map(&[("io.kubernetes.cri.rdt-class", "own")]), &pod).unwrap(), "own");
        assert_eq!(class_of("rdt", "c", &map(&[]), &pod).unwrap(), "pc");
        assert_eq!(class_of("rdt", "d", &map(&[]), &pod).unwrap(), "p");
        assert_eq!(class_of("blockio", "d", &map(&[]), &pod), None);
    }
}
