#!/bin/bash
# cgroup2.sh [CARGO FLAG...]
#
# Runs what depends on the kernel's cgroups and security modules in a user-mode Linux: on pure cgroup v2, with AppArmor. The
# tests must have been built with the same flags.
set -eu
units=(sys::cgroup shim::tests::want_of_memory shim::tests::pods_share shim::tests::what_a_killed core::runtime::tests::a_container
    core::runtime::tests::a_failed)
# Not those that are about how fast something is: the guest is slow.
stories=(
    cgroup2 apparmor
    pod::a_pod_lives pod::what_is_asked_for
    exec::a_timeout exec::errors_name
    logs::stdin
    shim::a_killed_shim
    crash::a_restart_in_order
    stats::statistics_are
    resources
)
built=$(cargo test "$@" --no-run 2>&1) || { echo "$built" >&2; exit 1; }
executable() { sed -n "s|.*Executable.* $1 (\(.*\))\$|\1|p" <<<"$built"; }
unit=$(executable src/lib.rs) story=$(executable tests/main.rs)
parser=$(readlink -f "${CARGO_TARGET_DIR:-target}/debian-apparmor/sbin")
export KARGS="lsm=capability,apparmor apparmor=1"
# shellcheck disable=SC2016
inside='PATH=$PATH:$1; "$2" --color never --test-threads 2 '"${units[*]}"' && "$3" --color never --test-threads 2 '"${stories[*]}"
exec tests/uml.sh tests/namespaces.sh bash -c "$inside" - "$parser" "$unit" "$story"
