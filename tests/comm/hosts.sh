#!/bin/bash
# tests/comm/hosts.sh PROGRAM N_RANKS [ARGS...] - runs an MPI program on two hosts: network namespaces with a wire between them, each with
# a host name of its own.  Needs root; exit 77 where namespaces are not allowed.
set -u
program=$1 ranks=$2
shift 2
tag=tri$$
work=$(mktemp -d) || exit 1
cleanup() {
    for h in ${tag}a ${tag}b; do
        for p in $(ip netns pids $h 2>/dev/null); do kill -9 "$p" 2>/dev/null; done
        ip netns del $h 2>/dev/null
    done
    rm -rf "$work"
}
trap cleanup EXIT
if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null || ! ip netns add ${tag}a 2>/dev/null || ! ip netns add ${tag}b 2>/dev/null ||
    ! unshare --uts true 2>/dev/null || ! ip link add e$$a netns ${tag}a type veth peer name e$$b netns ${tag}b 2>/dev/null; then
    echo "skipped: network namespaces need root, iproute2 and a kernel that allows them"
    exit 77
fi
i=0
for side in a b; do
    i=$((i + 1))
    ip -n $tag$side link set e$$$side name eth0
    ip -n $tag$side addr add 10.77.99.$i/24 dev eth0
    ip -n $tag$side link set lo up
    ip -n $tag$side link set eth0 up
    mkdir -p /etc/netns/$tag$side
    printf '127.0.0.1 localhost\n10.77.99.1 %sa\n10.77.99.2 %sb\n' $tag $tag > /etc/netns/$tag$side/hosts
done
trap 'cleanup; rm -rf /etc/netns/${tag}a /etc/netns/${tag}b' EXIT
# A name of its own makes Open MPI, and us, take a namespace for a host.
cat > "$work/agent" <<'AGENT'
#!/bin/bash
while [[ "$1" == -* ]]; do shift; done
h=$1; shift
exec ip netns exec "$h" unshare --uts bash -c 'hostname "$0"; exec bash -c "$1"' "$h" "$*"
AGENT
chmod +x "$work/agent"
printf '%sa slots=64\n%sb slots=64\n' $tag $tag > "$work/hosts"
ip netns exec ${tag}a unshare --uts bash -c 'hostname "$0"; exec "$@"' ${tag}a timeout -k 2 90 \
    mpirun --oversubscribe --hostfile "$work/hosts" --map-by node --bind-to none --mca plm_rsh_agent "$work/agent" \
    --mca oob_tcp_if_include eth0 --mca btl self,vader,tcp --mca btl_tcp_if_include eth0 \
    -x TRIREME_PLUGIN_DIR -np "$ranks" "$program" "$@"
