#!/bin/bash
# setup.sh [--tests|--dist]: installs by apt what building and running need, and what the tests or the C core need besides. No service of a
# package is started, and containerd and AppArmor's parser are never installed: their programs are unpacked beside the build.
set -eu
[ "$(id -u)" = 0 ] || { echo "make: needs root, for packages, namespaces, mounts and cgroups; run it with sudo" >&2; exit 1; }
packages=(pkg-config g++ libssl-dev libgrpc-dev crun containernetworking-plugins busybox-static docker-registry iptables iproute2 procps make)
case ${1:-} in --tests) packages+=(runc user-mode-linux kmod) ;; --dist) packages+=(cmake) ;; esac
missing=()
for p in "${packages[@]}"; do [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p"); done
if [ ${#missing[@]} -gt 0 ]; then
    guard=/usr/sbin/policy-rc.d
    if [ ! -e $guard ]; then
        trap 'rm -f $guard' EXIT
        printf '#!/bin/sh\nexit 101\n' >$guard
        chmod 755 $guard
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
version=$(cargo --version 2>/dev/null | sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p')
if [ "${version:-0}" -lt 90 ]; then
    echo "make: cargo 1.90 or newer is needed, found: ${version:+1.$version}${version:-none}" >&2
    echo "  on Debian 12: apt-get install cargo-web rustc-web; elsewhere: https://rustup.rs" >&2
    exit 1
fi
if [ "${1:-}" = --tests ]; then
    for peer in containerd:usr/bin/containerd apparmor:sbin/apparmor_parser; do
        package=${peer%%:*} dir=${CARGO_TARGET_DIR:-target}/debian-${peer%%:*}
        [ ! -x "$dir/${peer#*:}" ] || continue
        mkdir -p "$dir"
        (cd "$dir" && { [ -n "$(apt-cache policy "$package" 2>/dev/null | grep Candidate)" ] || apt-get update -qq; } && apt-get download -qq "$package" && dpkg -x "$package"_*.deb . && rm "$package"_*.deb)
    done
fi
