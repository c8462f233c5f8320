//! v1alpha2: the calls of the API before v1, for kubelets, crictl and node agents of before 2022. Its messages are v1's, less the
//! newer fields, with the same numbers: each call is served by v1's function, and `routes` needs no second table.

/// v1's path and v1alpha2's of each call that v1alpha2 has.
pub const ALIASES: &[(&str, &str)] = &[
    ("/runtime.v1.RuntimeService/Version", "/runtime.v1alpha2.RuntimeService/Version"),
    ("/runtime.v1.RuntimeService/RunPodSandbox", "/runtime.v1alpha2.RuntimeService/RunPodSandbox"),
    ("/runtime.v1.RuntimeService/StopPodSandbox", "/runtime.v1alpha2.RuntimeService/StopPodSandbox"),
    ("/runtime.v1.RuntimeService/RemovePodSandbox", "/runtime.v1alpha2.RuntimeService/RemovePodSandbox"),
    ("/runtime.v1.RuntimeService/PodSandboxStatus", "/runtime.v1alpha2.RuntimeService/PodSandboxStatus"),
    ("/runtime.v1.RuntimeService/ListPodSandbox", "/runtime.v1alpha2.RuntimeService/ListPodSandbox"),
    ("/runtime.v1.RuntimeService/CreateContainer", "/runtime.v1alpha2.RuntimeService/CreateContainer"),
    ("/runtime.v1.RuntimeService/StartContainer", "/runtime.v1alpha2.RuntimeService/StartContainer"),
    ("/runtime.v1.RuntimeService/StopContainer", "/runtime.v1alpha2.RuntimeService/StopContainer"),
    ("/runtime.v1.RuntimeService/RemoveContainer", "/runtime.v1alpha2.RuntimeService/RemoveContainer"),
    ("/runtime.v1.RuntimeService/ListContainers", "/runtime.v1alpha2.RuntimeService/ListContainers"),
    ("/runtime.v1.RuntimeService/ContainerStatus", "/runtime.v1alpha2.RuntimeService/ContainerStatus"),
    ("/runtime.v1.RuntimeService/UpdateContainerResources", "/runtime.v1alpha2.RuntimeService/UpdateContainerResources"),
    ("/runtime.v1.RuntimeService/ReopenContainerLog", "/runtime.v1alpha2.RuntimeService/ReopenContainerLog"),
    ("/runtime.v1.RuntimeService/ExecSync", "/runtime.v1alpha2.RuntimeService/ExecSync"),
    ("/runtime.v1.RuntimeService/Exec", "/runtime.v1alpha2.RuntimeService/Exec"),
    ("/runtime.v1.RuntimeService/Attach", "/runtime.v1alpha2.RuntimeService/Attach"),
    ("/runtime.v1.RuntimeService/PortForward", "/runtime.v1alpha2.RuntimeService/PortForward"),
    ("/runtime.v1.RuntimeService/ContainerStats", "/runtime.v1alpha2.RuntimeService/ContainerStats"),
    ("/runtime.v1.RuntimeService/ListContainerStats", "/runtime.v1alpha2.RuntimeService/ListContainerStats"),
    ("/runtime.v1.RuntimeService/PodSandboxStats", "/runtime.v1alpha2.RuntimeService/PodSandboxStats"),
    ("/runtime.v1.RuntimeService/ListPodSandboxStats", "/runtime.v1alpha2.RuntimeService/ListPodSandboxStats"),
    ("/runtime.v1.RuntimeService/UpdateRuntimeConfig", "/runtime.v1alpha2.RuntimeService/UpdateRuntimeConfig"),
    ("/runtime.v1.RuntimeService/Status", "/runtime.v1alpha2.RuntimeService/Status"),
    ("/runtime.v1.ImageService/ListImages", "/runtime.v1alpha2.ImageService/ListImages"),
    ("/runtime.v1.ImageService/ImageStatus", "/runtime.v1alpha2.ImageService/ImageStatus"),
    ("/runtime.v1.ImageService/PullImage", "/runtime.v1alpha2.ImageService/PullImage"),
    ("/runtime.v1.ImageService/RemoveImage", "/runtime.v1alpha2.ImageService/RemoveImage"),
    ("/runtime.v1.ImageService/ImageFsInfo", "/runtime.v1alpha2.ImageService/ImageFsInfo"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::cri_methods::{image_service, runtime_service};

    #[test]
    fn each_alias_is_of_a_call_that_v1_has() {
        for (new, old) in ALIASES {
            assert!(runtime_service::METHODS.contains(new) || image_service::METHODS.contains(new), "{new}");
            assert_eq!(new.replace(".v1.", ".v1alpha2."), *old);
        }
    }
}
