//! Logger: one line an event on stderr, as text or JSON, with the level from flag, environment or config.
use crate::error::{Error, Result};
use log::LevelFilter;
use std::io::Write;
use std::time::SystemTime;

/// Starts logging.
pub fn init(level: &str, format: &str) -> Result<()> {
    let level = match level {
        "" | "info" => LevelFilter::Info,
        "trace" => LevelFilter::Trace,
        "debug" => LevelFilter::Debug,
        "warn" | "warning" => LevelFilter::Warn,
        "error" | "fatal" | "panic" => LevelFilter::Error,
        other => return Err(Error::invalid(format!("log level \"{other}\": use trace, debug, info, warn or error"))),
    };
    let mut builder = env_logger::Builder::new();
    // The HTTP library tells each of its steps as debug: nobody asks for that but by RUST_LOG.
    builder
        .filter_level(level)
        .filter_module("ureq", level.min(LevelFilter::Warn))
        .filter_module("ureq_proto", level.min(LevelFilter::Warn));
    builder.parse_default_env();
    match format {
        "" | "text" => {
            builder.format(|out, r| writeln!(out, "{} {:<5} {}", humantime::format_rfc3339_micros(SystemTime::now()), r.level(), r.args()))
        }
        "json" => builder.format(|out, r| {
            let time = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
            let level = r.level().as_str().to_lowercase();
            writeln!(out, "{}", serde_json::json!({"time": time, "level": level, "msg": r.args().to_string()}))
        }),
        other => return Err(Error::invalid(format!("log format \"{other}\": use text or json"))),
    };
    builder.try_init().map_err(|e| Error::internal("start logging").because(e))
}
