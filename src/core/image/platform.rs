//! Platform: which machines a manifest is for, and which of several fits this one best.
use super::descriptor::null_is_empty;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A platform in Go's words.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// As `amd64`, `arm64`.
    pub architecture: String,
    /// As `linux`.
    pub os: String,
    /// Version of the OS; Windows' images have it.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// What the OS must have beyond the usual.
    #[serde(rename = "os.features", deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Level of the CPU, as `v8` or `v3`.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// How well a candidate fits: the same architecture before an older one that the CPU runs too, then the higher level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fit {
    native: bool,
    level: u32,
}

impl Platform {
    /// `os` and `architecture` without more.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Platform {
        Platform { os: os.into(), architecture: architecture.into(), variant: variant.into(), ..Platform::default() }
    }
    /// This machine.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform::new("linux", architecture, host_variant())
    }
    /// Whether a manifest for `candidate` runs here.
    pub fn matches(&self, candidate: &Platform) -> bool {
        self.fit(candidate).is_some()
    }
    /// How well a manifest for `candidate` runs here; nothing if it does not.
    pub fn fit(&self, candidate: &Platform) -> Option<Fit> {
        if self.os != candidate.os.to_ascii_lowercase() || candidate.os_features.iter().any(|f| !self.os_features.contains(f)) {
            return None;
        }
        let (ours, theirs) = (self.cpu(), candidate.cpu());
        let native = ours.0 == theirs.0;
        // What 64-bit CPUs run of their 32-bit past. A manifest for arm v9 does not exist; v8 is the last.
        let older = matches!((ours.0, theirs.0), ("arm64", "arm") | ("amd64", "386"));
        let runs = (native && theirs.1 <= ours.1) || (older && theirs.1 <= 800);
        runs.then_some(Fit { native, level: theirs.1 })
    }
    /// The architecture under its usual name, and its level with minor number: `v8.1` is 801.
    fn cpu(&self) -> (&str, u32) {
        let (name, implied) = match self.architecture.as_str() {
            "x86_64" | "x86-64" | "amd64" => ("amd64", "v1"),
            "aarch64" | "arm64" => ("arm64", "v8"),
            "armhf" | "armel" if self.variant.is_empty() => ("arm", if self.architecture == "armel" { "v6" } else { "v7" }),
            "arm" | "armhf" | "armel" => ("arm", "v7"),
            "i386" | "i686" | "386" => ("386", ""),
            other => (other, ""),
        };
        let variant = if self.variant.is_empty() { implied } else { &self.variant };
        (name, level(variant))
    }
}

/// An unknown word is a level that no machine has.
fn level(variant: &str) -> u32 {
    let digits = variant.trim_start_matches(['v', 'V']);
    let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
    match (major.parse::<u16>(), minor.parse::<u8>()) {
        _ if variant.is_empty() => 0,
        (Ok(major), Ok(minor)) if minor < 100 => u32::from(major) * 100 + u32::from(minor),
        _ => u32::MAX,
    }
}

/// The x86-64 level that the CPU has, by the features that the psABI names.
#[cfg(target_arch = "x86_64")]
fn host_variant() -> &'static str {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
    let v3 =
        v2 && has!("avx") && has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("fma") && has!("lzcnt") && has!("movbe");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, ..) => "v2",
        _ => "",
    }
}

#[cfg(target_arch = "aarch64")]
fn host_variant() -> &'static str {
    "v8"
}

/// What Debian's armhf needs, and so what a 32-bit build of ours runs on.
#[cfg(target_arch = "arm")]
fn host_variant() -> &'static str {
    "v7"
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "arm")))]
fn host_variant() -> &'static str {
    ""
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Platform {
        let mut words = text.split('/');
        let mut next = || words.next().unwrap_or("");
        Platform::new(next(), next(), next())
    }

    #[test]
    fn what_runs_where() {
        for (host, candidate, runs) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "linux/x86_64", true),
            ("linux/amd64", "linux/amd64/v2", false),
            ("linux/amd64/v3", "linux/amd64/v2", true),
            ("linux/amd64/v3", "linux/amd64/v4", false),
            ("linux/amd64", "linux/386", true),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "unknown/unknown", false),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64/v8", "linux/aarch64/v8", true),
            ("linux/arm64/v8", "linux/arm64/v8.2", false),
            ("linux/arm64/v8", "linux/arm/v7", true),
            ("linux/arm64/v8", "linux/arm64/v9", false),
            ("linux/arm/v7", "linux/arm/v6", true),
            ("linux/arm/v7", "linux/arm", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm/v7", "linux/arm64", false),
            ("linux/riscv64", "linux/riscv64", true),
            ("linux/amd64/v4", "linux/amd64/fast", false),
        ] {
            assert_eq!(parse(host).matches(&parse(candidate)), runs, "{candidate} on {host}");
        }
    }

    #[test]
    fn native_beats_older_and_the_higher_level_wins() {
        let host = parse("linux/arm64/v8");
        let order = ["linux/arm/v5", "linux/arm/v7", "linux/arm64"].map(|p| host.fit(&parse(p)).unwrap());
        assert!(order.is_sorted());
        let host = parse("linux/amd64/v3");
        let order = ["linux/386", "linux/amd64", "linux/amd64/v2", "linux/amd64/v3"].map(|p| host.fit(&parse(p)).unwrap());
        assert!(order.is_sorted());
    }

    #[test]
    fn the_host_matches_itself_and_a_needed_feature_must_be_there() {
        let host = Platform::host();
        assert!(host.matches(&host), "{host}");
        assert!(host.matches(&Platform::new("linux", &host.architecture, "")));
        assert!(!host.matches(&Platform { os_features: vec!["erofs".into()], ..host.clone() }));
    }
}
