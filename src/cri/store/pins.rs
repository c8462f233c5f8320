//! Pins: which images the kubelet must keep, by the names that the config gives: references, or patterns where `*` stands for
//! anything.
use crate::config::pattern;
use crate::remote::reference::Reference;

/// The patterns.
#[derive(Default, Debug)]
pub struct Pins(Vec<String>);

impl Pins {
    /// From the values of the config's `pinned_images`; empty ones pin nothing.
    pub fn new<'a>(patterns: impl Iterator<Item = &'a str>) -> Pins {
        let canonical = |text: &str| match text.contains('*') {
            true => text.to_string(),
            false => Reference::parse(text).map_or_else(|_| text.to_string(), |r| r.to_string()),
        };
        Pins(patterns.filter(|p| !p.is_empty()).map(canonical).collect())
    }
    /// Whether an image of this name is pinned.
    pub fn hold(&self, name: &str) -> bool {
        self.0.iter().any(|p| pattern::matches(p, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_short_or_long_and_stars_stand_for_anything() {
        for (pattern, name, want) in [
            ("busybox", "docker.io/library/busybox:latest", true),
            ("busybox:1", "docker.io/library/busybox:latest", false),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10", true),
            ("registry.k8s.io/pause*", "registry.k8s.io/pause:3.10", true),
            ("registry.k8s.io/pause*", "registry.k8s.io/pause@sha256:12", true),
            ("registry.k8s.io/*:3.10", "registry.k8s.io/a/pause:3.10", true),
            ("registry.k8s.io/*:3.1", "registry.k8s.io/a/pause:3.10", false),
            ("*pause*", "quay.io/x/pause:1", true),
            ("*", "x", true),
            ("a*b*a", "aba", true),
            ("ab*ba", "aba", false),
            ("", "x", false),
        ] {
            assert_eq!(Pins::new([pattern].into_iter()).hold(name), want, "{pattern} {name}");
        }
    }
}
