//! Status: whether the runtime and its network can start pods, and what each runtime handler can do.
use crate::call::Call;
use crate::cri::{Cri, about};
use crate::error::Result;
use crate::proto::cri::{
    RuntimeCondition, RuntimeFeatures, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus, StatusRequest, StatusResponse,
};
use protobuf::MessageField;
use std::collections::HashMap;

/// Status.
pub fn status(cri: &Cri, _: &Call, req: StatusRequest) -> Result<StatusResponse> {
    let network = match cri.networks.ready() {
        Ok(()) => condition("NetworkReady", None),
        Err(why) => condition("NetworkReady", Some(("NetworkPluginNotReady", format!("Network plugin returns error: {why}")))),
    };
    let down = cri.about.panicked();
    let runtime = (!down.is_empty()).then(|| ("LoopDown", format!("{}: panicked, see the log; restart cradled", down.join(", "))));
    let conditions = vec![condition("RuntimeReady", runtime), network];
    let mut handlers: Vec<&str> = cri.runtime.containerd.runtimes.keys().map(String::as_str).collect();
    handlers.push("");
    handlers.sort_unstable();
    Ok(StatusResponse {
        status: MessageField::some(RuntimeStatus { conditions, ..RuntimeStatus::default() }),
        runtime_handlers: handlers.into_iter().map(|name| handler(cri, name)).collect(),
        features: MessageField::some(RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: cri.handler_features("").user_namespaces,
            mount_options: true,
            ..RuntimeFeatures::default()
        }),
        info: if req.verbose { about::info(cri) } else { HashMap::new() },
        ..StatusResponse::default()
    })
}

fn condition(name: &str, fault: Option<(&str, String)>) -> RuntimeCondition {
    let status = fault.is_none();
    let (reason, message) = fault.map(|(r, m)| (r.to_string(), m)).unwrap_or_default();
    RuntimeCondition { type_: name.into(), status, reason, message, ..RuntimeCondition::default() }
}

fn handler(cri: &Cri, name: &str) -> RuntimeHandler {
    let can = cri.handler_features(name);
    let features = RuntimeHandlerFeatures {
        recursive_read_only_mounts: can.recursive_read_only,
        user_namespaces: can.user_namespaces,
        ..RuntimeHandlerFeatures::default()
    };
    RuntimeHandler { name: name.into(), features: MessageField::some(features), ..RuntimeHandler::default() }
}
