//! Failpoints: named places where a test makes the daemon die as a power cut would: `CRADLE_FAILPOINT=name`. Without the cargo
//! feature `failpoints`, which only tests have, nothing of it is compiled.

/// The daemon dies here if the environment names this place.
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    if std::env::var_os("CRADLE_FAILPOINT").is_some_and(|wanted| wanted == name) {
        log::error!("failpoint {name}: dying, as asked");
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_: &str) {}
