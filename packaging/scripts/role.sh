# shellcheck shell=sh
# What the packages of the roles, k3s-server and k3s-agent, do besides their files.
# shellcheck disable=SC2154 # the package's name comes from the build

installed() {
    booted_systemd || return 0
    systemctl daemon-reload
    # Nothing starts by itself, unless the administrator's presets say so.
    systemctl preset --quiet "$package.service" || true
}
upgraded() {
    booted_systemd || return 0
    systemctl daemon-reload
    systemctl try-reload-or-restart "$package.service" || true
}
# The node goes, and its pods with it.
removing() {
    booted_systemd || return 0
    if systemctl is-active --quiet "$package.service"; then
        systemctl disable --quiet --now "$package.service" || true
        if command -v k3s-killall.sh >/dev/null; then k3s-killall.sh || true; fi
    else
        systemctl disable --quiet "$package.service" || true
    fi
}
removed() {
    if booted_systemd; then systemctl daemon-reload; fi
}
