#!/bin/bash
# run-pod.sh [IMAGE]: what `make run` does once the programs are built, inside namespaces.sh: a registry on loopback with an image of
# busybox (or IMAGE as it is), a CNI bridge, the daemon, one pod with its output, and its removal.
set -eu
target=${CARGO_TARGET_DIR:-target}/release
dir=$(mktemp -d /tmp/cradle-run-XXXXXX)
pids=()
finish() {
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # In the host's network, with IMAGE=, the bridge would stay.
    ip link delete cradle-run0 2>/dev/null || true
    umount "$dir/state/io.containerd.grpc.v1.cri/netns" 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT
mkdir -p "$dir/cni"
cat >"$dir/cni/10-bridge.conflist" <<J
{"cniVersion": "1.0.0", "name": "cradle-run", "plugins": [
  {"type": "bridge", "bridge": "cradle-run0", "isGateway": true, "ipMasq": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.191.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "$dir/ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
cat >"$dir/config.toml" <<T
version = 3
root = "$dir/root"
state = "$dir/state"
[grpc]
address = "$dir/cradled.sock"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = "$dir/cni"
T
image=${1:-}
if [ -z "$image" ]; then
    image=127.0.0.1:5055/demo/busybox:1
    printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: 127.0.0.1:5055}\n' "$dir" >"$dir/registry.yml"
    OTEL_TRACES_EXPORTER=none docker-registry serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 &
    pids+=($!)
    for _ in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/5055) 2>/dev/null && break; sleep 0.1; done
    "$target/examples/push-image" "$image"
fi
"$target/cradled" -c "$dir/config.toml" 2>"$dir/log" &
pids+=($!)
for _ in $(seq 100); do grep -q ' ready in ' "$dir/log" && break; sleep 0.1; done
echo "== cradled plugins"; "$target/cradled" -c "$dir/config.toml" plugins
echo "== a pod of $image"
code=0
"$target/cradled" -c "$dir/config.toml" run "$image" -- sh -c 'echo "hello from $(hostname)"; id; ip -4 addr show eth0 | grep inet; cat /proc/self/cgroup | tail -1' || code=$?
echo "== the daemon's log"; cat "$dir/log"
[ "$code" = 0 ] || { echo "make run: the pod failed with $code" >&2; exit "$code"; }
left=$(grep -c " $dir/state" /proc/self/mountinfo || true)
echo "== exit code 0; mounts left: $left; pods left: $(ls "$dir/state/io.containerd.grpc.v1.cri/sandboxes" | wc -l)"
