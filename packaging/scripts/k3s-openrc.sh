# shellcheck shell=sh
# What the package k3s-openrc does besides its files.

installed() { :; }
# Pods are no children of the service: they go on while it restarts.
upgraded() {
    [ -d /run/openrc ] || return 0
    for role in k3s-server k3s-agent; do
        rc-service --quiet --ifstarted $role restart || true
    done
}
# The node goes, and its pods with it.
removing() {
    for role in k3s-server k3s-agent; do
        if [ -d /run/openrc ] && rc-service --quiet $role status >/dev/null 2>&1; then
            rc-service --quiet $role stop || true
            if command -v k3s-killall.sh >/dev/null; then k3s-killall.sh || true; fi
        fi
        if command -v rc-update >/dev/null; then rc-update --quiet --all delete $role 2>/dev/null || true; fi
    done
}
removed() { :; }
