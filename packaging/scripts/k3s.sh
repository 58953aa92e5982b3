# shellcheck shell=sh
# What the package k3s does besides its files. Every format calls these functions at the same moments.

installed() { prepare_system; }
upgraded() {
    installed
    if booted_systemd; then restart_components; fi
}
removing() {
    if command -v k3s-killall.sh >/dev/null; then k3s-killall.sh || true; fi
}
removed() {
    if booted_systemd; then systemctl daemon-reload; fi
}
