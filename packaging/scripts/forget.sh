# shellcheck shell=sh
# Removes what k3s left on disk, for good: configuration, state, logs, users. Volumes of the local storage
# hold the user's data; they stay unless K3S_REMOVE_STORAGE=true.
forget() {
    data=${K3S_DATA_DIR:-/var/lib/rancher/k3s}
    if [ "${K3S_REMOVE_STORAGE:-}" != true ] && [ -n "$(ls -A "$data/storage" 2>/dev/null)" ]; then
        find "$data" -xdev -mindepth 1 -maxdepth 1 ! -name storage -exec rm -rf --one-file-system {} +
        echo "k3s: kept the volumes in $data/storage"
    else
        rm -rf --one-file-system "$data"
        rmdir "${data%/*}" 2>/dev/null || true
    fi
    rm -rf --one-file-system /etc/rancher/k3s /etc/rancher/node /run/k3s /run/flannel \
        /var/lib/kubelet /var/lib/cni/networks/cbr0 /var/log/pods /var/log/containers
    rm -f /var/log/k3s.log* /var/lib/cni/results/cbr0-* /var/lib/cni/results/cni-loopback-*
    rmdir /var/lib/cni/results /var/lib/cni/networks /var/lib/cni /etc/rancher 2>/dev/null || true
    # Where control groups are of version 1, the last process may leave after its unit did.
    find /sys/fs/cgroup -depth -type d -path '*/k3s.slice*' -exec rmdir {} + 2>/dev/null || true
    sed -n 's/^\(k3s\(-[a-z-]*\)\{0,1\}\):.*/\1/p' /etc/passwd | while read -r user; do
        userdel "$user" 2>/dev/null || deluser "$user" 2>/dev/null || true
    done
    sed -n 's/^\(k3s\(-[a-z-]*\)\{0,1\}\):.*/\1/p' /etc/group | while read -r group; do
        groupdel "$group" 2>/dev/null || delgroup "$group" 2>/dev/null || true
    done
}
