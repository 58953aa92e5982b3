#!/bin/sh
# Stops k3s and every pod of this node, and takes away what they had: processes, mounts, namespaces,
# links, addresses, routes, nftables tables, cgroups, and what lies under /run. Configuration and data stay.
# With --shutdown, for a machine that goes down, it only ends the pods, with ten seconds to do so by themselves.
# K3S_DATA_DIR names the data folder when it is not the usual one.
set -u
[ "$(id -u)" = 0 ] || { echo "k3s-killall.sh: run it as root" >&2; exit 1; }
# In a chroot, as where images are made, nothing of it runs, and what /proc shows is the machine's around it.
[ "$(stat -L -c %d:%i /proc/1/root 2>/dev/null)" = "$(stat -L -c %d:%i /)" ] || { echo "k3s-killall.sh: this is no running machine, nothing to stop"; exit 0; }
data=${K3S_DATA_DIR:-/var/lib/rancher/k3s}

# Prints the processes whose executable is k3s, or that run from a configuration of ours: containerd,
# its shims, the private message bus. Names alone prove nothing.
ours() {
    for folder in /proc/[0-9]*; do
        pid=${folder#/proc/}
        exe=$(readlink "$folder/exe" 2>/dev/null) || continue
        case ${exe% (deleted)} in */k3s) echo "$pid"; continue ;; esac
        case $({ tr '\0' ' ' <"$folder/cmdline"; } 2>/dev/null) in
            *containerd-shim*" -address /run/k3s/containerd/"* | *containerd-shim*" -address $data/"*) echo "$pid" ;;
            *containerd*" --config $data/agent/etc/containerd/"* | *dbus-daemon*" --config-file=/run/k3s/"*) echo "$pid" ;;
        esac
    done
}

# Prints the given processes and all that descend from them.
descendants() {
    ps -e -o pid= -o ppid= 2>/dev/null | awk -v roots="$*" '
        { parent[$1] = $2 }
        END {
            n = split(roots, list, " ")
            for (i = 1; i <= n; i++) found[list[i]] = 1
            do { more = 0; for (p in parent) if (!(p in found) && (parent[p] in found)) { found[p] = 1; more = 1 } } while (more)
            for (p in found) print p
        }'
}

# Mount points below a path or with a path's beginning, deepest first.
mounts_under() {
    awk -v want="$1" 'index($2, want) == 1 { print $2 }' /proc/self/mounts | sort -r | while read -r point; do
        printf '%b\n' "$point"
    done
}

stop_services() {
    if [ -d /run/systemd/system ]; then
        systemctl stop k3s-server.service k3s-agent.service 2>/dev/null
        units=$(systemctl list-units --all --plain --no-legend 'k3s*' | awk '{ print $1 }')
        # shellcheck disable=SC2086
        [ -z "$units" ] || systemctl stop $units
        # shellcheck disable=SC2086
        [ -z "$units" ] || systemctl reset-failed $units 2>/dev/null
    fi
    for role in k3s-server k3s-agent; do
        [ -d /run/openrc ] && [ -x /etc/init.d/$role ] && rc-service --ifstarted $role stop
    done
}

kill_processes() {
    # A process may fork while it is looked at, so look until none is left.
    for _ in 1 2 3 4 5; do
        roots=$(ours | tr '\n' ' ')
        [ -n "$roots" ] || return 0
        # shellcheck disable=SC2046,SC2086
        kill -9 $(descendants $roots) 2>/dev/null
        sleep 0.2
    done
    echo "k3s-killall.sh: these processes do not end: $(ours | tr '\n' ' ')" >&2
}

remove_mounts() {
    for path in /run/k3s/ /run/netns/cni- "$data/agent/" /var/lib/kubelet/; do
        mounts_under "$path" | while read -r point; do
            umount "$point" 2>/dev/null || umount -l "$point"
        done
    done
    for name in /run/netns/cni-*; do
        [ -e "$name" ] && rm -f "$name"
    done
    rm -rf --one-file-system /run/k3s /run/flannel /var/lib/cni/networks/cbr0 /var/lib/kubelet/pods /var/lib/kubelet/plugins
}

remove_network() {
    if command -v nft >/dev/null; then
        nft list tables 2>/dev/null | while read -r _ family name; do
            case $name in k3s-*) nft delete table "$family" "$name" ;; esac
        done
    fi
    command -v ip >/dev/null || return 0
    ip -o link show master cni0 2>/dev/null | awk -F': ' '{ sub(/@.*/, "", $2); print $2 }' | while read -r link; do
        ip link delete "$link"
    done
    for link in cni0 flannel.1 flannel-wg flannel-v6.1; do
        [ -e /sys/class/net/$link ] && ip link delete $link
    done
    # Routes of the pod network carry flannel's protocol number.
    ip route flush proto 107 2>/dev/null
    for address in $dns; do
        ip address show dev lo | grep -q " $address/32 " && ip address delete "$address/32" dev lo
    done
}

remove_cgroups() {
    # Where systemd makes them, it also keeps them.
    [ -d /run/systemd/system ] && systemctl stop kubepods.slice 2>/dev/null
    find /sys/fs/cgroup -depth -type d \( -path '*/kubepods*' -o -path '*/k3s*' \) 2>/dev/null | while read -r group; do
        rmdir "$group" 2>/dev/null
    done
}

# SIGTERM to the containers, then SIGKILL to them and their shims.
end_pods() {
    shims=$(ours | tr '\n' ' ')
    [ -n "$shims" ] || return 0
    # shellcheck disable=SC2086
    all=$(descendants $shims)
    for pid in $all; do
        case " $shims " in *" $pid "*) ;; *) kill "$pid" 2>/dev/null ;; esac
    done
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        # shellcheck disable=SC2086
        [ "$(descendants $shims | wc -w)" -gt "$(echo $shims | wc -w)" ] || break
        sleep 1
    done
    # shellcheck disable=SC2046,SC2086
    kill -9 $(descendants $shims) 2>/dev/null
    return 0
}
case ${1:-} in
    '') ;;
    --shutdown) end_pods; exit 0 ;;
    *) echo "usage: k3s-killall.sh [--shutdown]" >&2; exit 64 ;;
esac

# Where the cluster DNS listens is known only while it runs.
dns="10.43.0.10 $(for pid in $(ours); do { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | sed -n 's/^--cluster-dns=//p' | tr ',' ' '; done | sort -u | tr '\n' ' ')"
stop_services
kill_processes
remove_mounts
remove_network
remove_cgroups
exit 0
