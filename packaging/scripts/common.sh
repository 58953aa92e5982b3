# shellcheck shell=sh
booted_systemd() { [ -d /run/systemd/system ]; }

# Users and folders, and units read anew. The bus read our policy when it appeared, before its users did.
prepare_system() {
    if command -v systemd-sysusers >/dev/null; then systemd-sysusers k3s.conf || true; fi
    if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create k3s.conf || true; fi
    booted_systemd || return 0
    systemctl daemon-reload
    systemctl reload dbus.service || true
}

# After an upgrade, one component after the other: their sockets stay open meanwhile, and pods belong to
# none of them.
restart_components() {
    for unit in store apiserver controller-manager scheduler flannel proxy dns kubelet; do
        systemctl try-restart "k3s-$unit.service" || true
    done
}
