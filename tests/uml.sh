#!/bin/bash
# uml.sh COMMAND [ARG...]
#
# Runs COMMAND as root in a user-mode Linux: Debian's kernel as a process of this machine, which needs ptrace and no
# virtualisation. What a machine of hybrid cgroups does not have is there: pure cgroup v2 (cpu, io, memory, pids), every
# capability, and with KARGS="lsm=capability,apparmor apparmor=1" AppArmor. COMMAND sees this machine's files read-only, and
# /tmp /run /var/lib /var/log /mnt empty; it gets CRADLE_* and RUST_* of the environment, prints here, and its exit code is ours.
# MEM=2G is how much memory it has, LIMIT=600 how many seconds. SKIP_UML=1: says so, and does nothing.
set -u

if [ -n "${SKIP_UML:-}" ]; then
    echo "uml.sh: SKIPPED because SKIP_UML is set: nothing was tested on cgroup v2" >&2
    exit 0
fi
[ $# -gt 0 ] || { echo "usage: uml.sh COMMAND [ARG...]" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "uml.sh: needs root, as the guest's files are ours; run it with sudo" >&2; exit 1; }
linux=$(command -v linux.uml) && command -v kmod >/dev/null || {
    echo "uml.sh: no linux.uml or no kmod here: apt-get install user-mode-linux kmod, or make test SKIP_UML=1" >&2
    exit 1
}

target=$(readlink -f "${CARGO_TARGET_DIR:-$PWD/target}")
job=$(mktemp -d "$target/uml-XXXXXX") || exit 1
# The guest's memory is a file that it runs from: on a tmpfs that has the room and lets it, else where the tests are built.
memory=${MEM:-2G} limit=${LIMIT:-600} home=$job
room=$(df --output=avail -BG /dev/shm 2>/dev/null | tail -1 | tr -dc 0-9)
if [ "${room:-0}" -ge "${memory%G}" ] && ! grep -q '^[^ ]* /dev/shm [^ ]* [^ ]*noexec' /proc/self/mounts; then
    home=/dev/shm
fi
# Not only where the processor needs it: so that it is tried everywhere.
${CC:-cc} -O2 -shared -fPIC -o "$job/xstate.so" tests/tools/uml_xstate.c || exit 1
guest=
end() {
    # timeout has made a process group of it.
    [ -z "$guest" ] || kill -KILL -- "-$guest" 2>/dev/null
    rm -rf "$job"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir -p "$job/modules/lib/modules" "$job/out"
for release in /usr/lib/uml/modules/*; do ln -s "$release" "$job/modules/lib/modules/"; done
{
    export -p | grep -E '^declare -x (CRADLE|RUST)[A-Z_]*='
    printf 'command=('; printf '%q ' "$@"; printf ')\n'
    printf 'directory=%q target=%q job=%q\n' "$PWD" "$target" "$job"
    cat <<'GUEST'
export PATH=/tmp/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o ptmxmode=666 devpts /dev/pts
for dir in /dev/shm /tmp /run /var/lib /var/log /mnt; do mount -t tmpfs tmpfs $dir; done
mount -t hostfs none /mnt -o "$job/out"
# A checkout below one of these shines through.
for dir in "$directory" "$target"; do [ -e "$dir" ] || { mkdir -p "$dir" && mount -t hostfs none "$dir" -o "$dir"; }; done
mkdir /tmp/bin
# The kernel has no nf_tables.
for name in iptables ip6tables iptables-save iptables-restore; do ln -s /usr/sbin/xtables-legacy-multi /tmp/bin/$name; done
for module in overlay bridge veth br_netfilter iptable_nat iptable_filter ip6table_nat xt_nat xt_MASQUERADE xt_comment \
    xt_conntrack xt_mark xt_addrtype xt_multiport xt_tcpudp; do
    modprobe -d "$job/modules" $module 2>/tmp/modprobe || echo "uml.sh: module $module: $(cat /tmp/modprobe)"
done
hostname uml
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1
cd "$directory"
"${command[@]}"
echo $? >/mnt/code
GUEST
} >"$job/script"
cat >"$job/init" <<INIT
#!/bin/sh
bash "$job/script"
echo 0 >/proc/sys/kernel/printk
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod +x "$job/init"

# The kernel is quiet but for a panic: its messages would run into the lines of the command. In a PID namespace of its own, so
# that none of its processes outlives it; its first one is a shell, as the kernel itself wants its signals.
kernel() {
    TMPDIR=$home LD_PRELOAD=$job/xstate.so "$linux" mem="$memory" root=/dev/root rootfstype=hostfs rootflags=/ ro init="$job/init" \
        con=null con0=null,fd:1 con1=null quiet loglevel=1 ${KARGS:-} umid=cradle uml_dir="$job/"
}
export -f kernel
export home job linux memory KARGS
timeout --signal=KILL "$limit" unshare --pid --fork --kill-child=KILL bash -c kernel </dev/null &
guest=$!
wait $guest
ended=$?
guest=
[ $ended != 137 ] || { echo "uml.sh: not through after $limit s, killed; LIMIT sets how long it may take" >&2; exit 1; }
code=$(cat "$job/out/code" 2>/dev/null) || {
    echo "uml.sh: the guest ended before its command: does this machine allow ptrace (docker: --cap-add SYS_PTRACE)? SKIP_UML=1 leaves this part out" >&2
    exit 1
}
exit "$code"
