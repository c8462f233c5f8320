//! Info: what this shim is and what its OCI runtime can do, for `-info` and `-v`.
use super::bootstrap::runc_options;
use super::runtime::Runtime;
use crate::error::{Context, Result};
use crate::proto::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use std::io::{Read, Write};

/// Type name of the OCI runtime's features, a JSON text.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Prints a RuntimeInfo message; the options of the runtime come on standard input.
pub fn info() -> Result<()> {
    let mut input = vec![];
    std::io::stdin().take(1 << 20).read_to_end(&mut input).during(|| "read the runtime's options from stdin")?;
    let options = Any::parse_from_bytes(&input).during(|| "decode the runtime's options")?;
    let mut info = RuntimeInfo::new();
    info.name = "io.containerd.cradle.v2".into();
    let mut version = RuntimeVersion::new();
    version.version = env!("CARGO_PKG_VERSION").into();
    info.version = Some(version).into();
    let runtime = Runtime::new(&runc_options(&options).unwrap_or_default(), "default")?;
    if !options.type_url.is_empty() {
        info.options = Some(options).into();
    }
    // Older runtimes do not know the command.
    if let Ok(features) = Runtime::ask(&runtime.program, &["features"]) {
        let mut any = Any::new();
        any.type_url = FEATURES.into();
        any.value = features;
        info.features = Some(any).into();
    }
    let bytes = info.write_to_bytes().during(|| "write the runtime's info")?;
    let mut out = std::io::stdout();
    out.write_all(&bytes).and_then(|()| out.flush()).during(|| "print the runtime's info")
}

/// Prints the version.
pub fn version() {
    println!("containerd-shim-cradle-v2:\n  Version:  {}", env!("CARGO_PKG_VERSION"));
}
