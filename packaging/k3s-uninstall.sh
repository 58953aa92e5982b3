#!/bin/sh
# Takes k3s off this machine: pods, services, programs, configuration, state, users.
# Volumes of the local storage stay unless K3S_REMOVE_STORAGE=true.
set -eu
[ "$(id -u)" = 0 ] || { echo "${0##*/}: run it as root" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
# include forget.sh

"$here/k3s-killall.sh"
manifest=/etc/rancher/k3s/.installed
if [ -e "$manifest" ]; then
    for role in k3s-server k3s-agent; do
        if [ -d /run/systemd/system ]; then systemctl disable --quiet $role.service 2>/dev/null || true; fi
        if [ -x /sbin/rc-update ]; then rc-update --quiet delete $role 2>/dev/null || true; fi
    done
    # install.sh wrote down every file, link and folder; what is in a folder goes before it.
    sort -r "$manifest" | while read -r path; do
        if [ -d "$path" ] && [ ! -L "$path" ]; then rmdir "$path" 2>/dev/null || true; else rm -f "$path"; fi
    done
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
elif command -v dpkg-query >/dev/null && dpkg-query -W k3s >/dev/null 2>&1; then
    # shellcheck disable=SC2046
    DEBIAN_FRONTEND=noninteractive apt-get purge -qy $(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' 'k3s*' | sed -n 's/^[irh]. //p')
elif command -v rpm >/dev/null && rpm -q k3s >/dev/null 2>&1; then
    # shellcheck disable=SC2046
    rpm -e $(rpm -qa --qf '%{NAME}\n' 'k3s' 'k3s-*')
elif command -v apk >/dev/null && apk info -e k3s >/dev/null 2>&1; then
    apk del --purge k3s k3s-server k3s-agent k3s-openrc
fi
forget
echo "k3s is gone from this machine"
