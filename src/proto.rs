//! The only `include!` of generated code, and short names for it.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used, unused, unsafe_code)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/gen/mod.rs"));
}
pub use generated::containerd_cgroups1 as cgroups1;
pub use generated::containerd_cgroups2 as cgroups2;
pub use generated::containerd_events_image as image_events;
pub use generated::containerd_events_task as task_events;
pub use generated::containerd_services_content as content;
pub use generated::containerd_services_content_grpc as content_methods;
pub use generated::containerd_services_introspection as introspect;
pub use generated::containerd_services_introspection_grpc as introspect_methods;
pub use generated::containerd_types_event as event;
pub use generated::containerd_types_introspection as introspection;
pub use generated::containerd_types_metrics as metrics;
pub use generated::containerd_types_mount as mount;
pub use generated::containerd_types_runc_options_oci as runc_options;
pub use generated::containerd_types_runtimeoptions_v1_api as runtime_options;
pub use generated::containerd_types_task_task as task_types;
pub use generated::cri_v1 as cri;
pub use generated::cri_v1_grpc as cri_methods;
pub use generated::google_rpc_status as rpc_status;
pub use generated::shim_bootstrap as bootstrap;
pub use generated::shim_cradle as cradle;
pub use generated::shim_cradle_ttrpc as cradle_names;
pub use generated::shim_events_ttrpc as forward;
pub use generated::shim_events_ttrpc_ttrpc as forward_names;
pub use generated::shim_task_v2 as task_v2;
pub use generated::shim_task_v2_ttrpc as task_v2_names;
pub use generated::shim_task_v3 as task_v3;
pub use generated::shim_task_v3_ttrpc as task_v3_names;
