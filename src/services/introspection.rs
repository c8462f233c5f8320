//! Introspection: which plugins run, and why others do not.
use crate::error::{Error, Kind, Result};
use crate::plugin::{Registration, Status};
use crate::proto::introspect::{Plugin, PluginsResponse};
use crate::proto::introspect_methods::introspection as methods;
use crate::proto::rpc_status;
use crate::rpc::grpc::Routes;
use crate::rpc::status;
use crate::thread::Pool;
use protobuf::MessageField;
use std::sync::{Arc, OnceLock};

/// The plugins once they are loaded.
pub type Slot = Arc<OnceLock<Vec<Plugin>>>;

/// Adds the service's calls.
pub fn add(routes: Routes, lane: &Pool, plugins: &Slot) -> Routes {
    let plugins = plugins.clone();
    routes.unary(&methods::PLUGINS, lane, move |_, _| list(&plugins))
}

fn list(plugins: &Slot) -> Result<PluginsResponse> {
    let plugins = plugins.get().ok_or_else(|| Error::new(Kind::Unavailable, "server is not initialized yet"))?;
    Ok(PluginsResponse { plugins: plugins.clone(), ..PluginsResponse::default() })
}

/// Plugins as the service shows them.
pub fn describe(plugins: &[(&'static Registration, Status)]) -> Vec<Plugin> {
    plugins.iter().map(|(registration, status)| one(registration, status)).collect()
}

fn one(registration: &Registration, status: &Status) -> Plugin {
    let init_err = match status {
        Status::Ok => None,
        // `ctr plugins ls` prints "skip" for this text.
        Status::Skipped(why) => Some((Kind::Unimplemented, format!("skip plugin: {why}"))),
        Status::Failed(why) => Some((Kind::Unknown, why.clone())),
    };
    let init_err =
        init_err.map(|(kind, message)| rpc_status::Status { code: status::code(kind), message, ..rpc_status::Status::default() });
    Plugin {
        type_: registration.kind.uri().into(),
        id: registration.id.into(),
        requires: registration.requires.iter().map(|k| k.uri().to_string()).collect(),
        init_err: init_err.map_or_else(MessageField::none, MessageField::some),
        ..Plugin::default()
    }
}
