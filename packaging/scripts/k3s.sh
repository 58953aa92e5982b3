# shellcheck shell=sh
# What the package k3s does besides its files. Every format calls these functions at the same moments.

installed() {
    if command -v systemd-sysusers >/dev/null; then systemd-sysusers k3s.conf || true; fi
    if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create k3s.conf || true; fi
    if booted_systemd; then systemctl daemon-reload; fi
}
# One unit after the other: their sockets stay open meanwhile, and pods belong to none of them.
upgraded() {
    installed
    booted_systemd || return 0
    for unit in store apiserver controller-manager scheduler flannel proxy dns kubelet; do
        systemctl try-restart "k3s-$unit.service" || true
    done
}
removing() {
    if command -v k3s-killall.sh >/dev/null; then k3s-killall.sh || true; fi
}
removed() {
    if booted_systemd; then systemctl daemon-reload; fi
}
