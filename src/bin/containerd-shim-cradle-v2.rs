//! containerd-shim-cradle-v2: the process that containerd, or cradled, leaves beside each pod.
use std::process::ExitCode;

fn main() -> ExitCode {
    cradle::shim::main()
}
