#!/bin/bash
# cgroup2.sh [CARGO FLAG...]
#
# Runs what depends on the layout of cgroups in a user-mode Linux, on pure cgroup v2. The tests must have been built with the
# same flags.
set -eu
units=(sys::cgroup shim::tests core::runtime)
stories=(
    cgroup2
    pod::a_pod_lives pod::what_is_asked_for
    exec::a_timeout exec::errors_name
    logs::stdin
    shim::a_killed_shim
    crash::pods_outlive
    resources
)
built=$(cargo test "$@" --no-run 2>&1) || { echo "$built" >&2; exit 1; }
executable() { sed -n "s|.*Executable.* $1 (\(.*\))\$|\1|p" <<<"$built"; }
unit=$(executable src/lib.rs) story=$(executable tests/main.rs)
exec tests/uml.sh tests/namespaces.sh bash -c '"$1" --color never '"${units[*]}"' && "$2" --color never --test-threads 2 '"${stories[*]}" - "$unit" "$story"
