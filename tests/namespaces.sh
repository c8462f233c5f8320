#!/bin/bash
# namespaces.sh [--host-network] COMMAND [ARG...]
#
# Runs COMMAND as root in new mount, PID and network namespaces, so that its ports, bridges, firewall rules, mounts and
# processes neither meet the host's nor outlive the run: lo is up, mounts are shared among themselves, /run and what CNI
# keeps are empty and private. The outer process removes the cgroups of the run, also after a failure or a signal; they
# are below /$CRADLE_CGROUP in every hierarchy. --host-network keeps the host's network, for images of real registries.
set -u

if [ "$(id -u)" != 0 ]; then
    echo "namespaces.sh: needs root, for namespaces, mounts and cgroups; run it with sudo" >&2
    exit 1
fi
network=--net
if [ "${1-}" = --host-network ]; then
    network=
    shift
fi
[ $# -gt 0 ] || { echo "usage: namespaces.sh [--host-network] COMMAND [ARG...]" >&2; exit 2; }

if [ "$1" = --inside ]; then
    set -e
    cd "$2"
    shift 2
    mount --make-rprivate /
    mount --make-rshared /
    mount -t proc proc /proc
    mount -t tmpfs -o mode=755 cradle-run /run
    mkdir -p /run/netns /run/lock
    mount --bind /run/netns /run/netns
    mount --make-shared /run/netns
    for dir in /etc/cni /var/lib/cni; do
        [ ! -d $dir ] || mount -t tmpfs cradle-cni $dir
    done
    ip link set lo up
    set +e
    # Not exec: this shell is the init of the PID namespace, and reaps what loses its parent.
    "$@"
    exit $?
fi

export CRADLE_CGROUP=cradle-test-$$
cgroups() { find /sys/fs/cgroup -depth -type d -path "*/$CRADLE_CGROUP*" 2>/dev/null; }
clean() {
    local dir try
    for try in 1 2 3 4 5; do
        # The kernel keeps a cgroup for as long as its dead processes are not reaped.
        cgroups | while read -r dir; do rmdir "$dir" 2>/dev/null; done
        [ -n "$(cgroups)" ] || break
        sleep 0.2
    done
    dir=$(cgroups | head -1)
    [ -z "$dir" ] || echo "namespaces.sh: cgroup $dir is still there" >&2
    if [ -n "${root-}" ]; then
        # Where the host's mounts are shared, the bind mount came out to us. Private first: else its peers go with it.
        mount --make-rprivate "$root" 2>/dev/null && umount -R -l "$root"
        rmdir "$root"
    fi
}
child=
trap clean EXIT
trap '[ -z "$child" ] || kill -KILL "$child" 2>/dev/null; exit 130' INT
trap '[ -z "$child" ] || kill -KILL "$child" 2>/dev/null; exit 143' TERM HUP

self=$(readlink -f "$0")
if awk '$5 == "/" { found = 1 } END { exit !found }' /proc/self/mountinfo; then
    enter=("$self" --inside "$PWD" "$@")
else
    # In a chroot / is no mount point, and pivot_root and propagation need one.
    root=$(mktemp -d /tmp/cradle-root-XXXXXX)
    enter=(sh -c 'mount --rbind / "$1" && exec chroot "$@"' sh "$root" "$self" --inside "$PWD" "$@")
fi
unshare --mount --propagation unchanged $network --pid --fork --kill-child=KILL "${enter[@]}" <&0 &
child=$!
wait "$child"
