# shellcheck shell=sh
# What the package k3s-server does besides its files.

installed() {
    booted_systemd || return 0
    systemctl daemon-reload
    # Nothing starts by itself, unless the administrator's presets say so.
    systemctl preset --quiet k3s-server.service || true
}
upgraded() {
    booted_systemd || return 0
    systemctl daemon-reload
    systemctl try-reload-or-restart k3s-server.service || true
}
# The node goes, and its pods with it.
removing() {
    booted_systemd || return 0
    if systemctl is-active --quiet k3s-server.service; then
        systemctl disable --quiet --now k3s-server.service || true
        if command -v k3s-killall.sh >/dev/null; then k3s-killall.sh || true; fi
    else
        systemctl disable --quiet k3s-server.service || true
    fi
}
removed() {
    if booted_systemd; then systemctl daemon-reload; fi
}
