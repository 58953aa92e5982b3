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
removing() {
    [ -d /run/openrc ] || return 0
    for role in k3s-server k3s-agent; do
        rc-service --quiet --ifstarted $role stop || true
        rc-update --quiet delete $role 2>/dev/null || true
    done
}
removed() { :; }
