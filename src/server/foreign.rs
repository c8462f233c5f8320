//! Foreign: a containerd beside us is never harmed. Where root or state is another runtime's, our own go into `cradled` below it.
use crate::config::Config;
use log::warn;
use std::path::Path;

/// containerd's metadata, by which a root is known to be its.
const THEIR_METADATA: &str = "io.containerd.metadata.v1.bolt/meta.db";
/// Where ours goes then.
const OURS: &str = "cradled";

/// Moves our directories aside where another runtime's are.
pub fn keep_apart(config: &mut Config) {
    if !Path::new(&config.root).join(THEIR_METADATA).exists() {
        return;
    }
    for dir in [&mut config.root, &mut config.state] {
        let own = dir.join(OURS);
        warn!("{} belongs to a containerd: nothing of it is read or changed, cradled uses {}", dir.display(), own.display());
        *dir = own;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_of_containerd_is_left_alone() {
        let scratch = crate::sys::fs::Scratch::new("foreign");
        let mut config = Config::default();
        (config.root, config.state) = (scratch.path.clone(), "/run/x".into());
        keep_apart(&mut config);
        assert_eq!(config.root, scratch.path);
        std::fs::create_dir_all(scratch.path.join("io.containerd.metadata.v1.bolt")).unwrap();
        std::fs::write(scratch.path.join(THEIR_METADATA), "x").unwrap();
        keep_apart(&mut config);
        assert_eq!(config.root, scratch.path.join("cradled"));
        assert_eq!(config.state, Path::new("/run/x/cradled"));
    }
}
