//! Features: what the kernel lets pods of this node do, tried when it is first asked.
use super::Cri;
use crate::sys::{mount, userns};
use log::info;
use std::path::Path;
use std::sync::OnceLock;

/// The type of runtimes that take an OCI spec and our mounts as they are.
const RUNC: &str = "io.containerd.runc.v2";

/// What the kernel can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// User namespaces of a pod's own, with id-mapped mounts.
    pub user_namespaces: bool,
    /// Mounts that are read only with all below them.
    pub recursive_read_only: bool,
}

/// The answer, once known.
#[derive(Default, Debug)]
pub struct Features(OnceLock<Kernel>);

impl Features {
    /// What the kernel can do, tried on the file system of `dir`.
    pub fn kernel(&self, dir: &Path) -> Kernel {
        *self.0.get_or_init(|| {
            let some = vec![userns::IdRange { inside: 0, outside: 65_536, count: 65_536 }];
            let map = userns::IdMap { uids: some.clone(), gids: some };
            let answer = |what: &str, tried: std::io::Result<()>| tried.inspect_err(|e| info!("{what} cannot be offered: {e}")).is_ok();
            Kernel {
                user_namespaces: answer("user namespaces", mount::can_map(dir, &map)),
                recursive_read_only: answer("recursive read-only mounts", mount::can_set_recursively(dir)),
            }
        })
    }
}

impl Cri {
    /// What pods of a handler can use: what the kernel can, where the runtime is one that takes our mounts.
    pub fn handler_features(&self, handler: &str) -> Kernel {
        match self.handler(handler) {
            Ok(known) if known.runtime_type == RUNC => self.features.kernel(&self.dirs.root),
            _ => Kernel { user_namespaces: false, recursive_read_only: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_tried_once() {
        let features = Features::default();
        let first = features.kernel(&std::env::temp_dir());
        assert_eq!(features.kernel(Path::new("/nonexistent")), first);
    }
}
