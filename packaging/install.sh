#!/bin/sh
# Installs k3s from a release archive, upgrades it in place, and makes this machine a server or an agent.
#
#   curl -sfL URL/install.sh | INSTALL_K3S_URL=URL sh -
#   curl -sfL URL/install.sh | INSTALL_K3S_URL=URL K3S_URL=https://server:6443 K3S_TOKEN=... sh -
#
#   INSTALL_K3S_URL            where the archive and its SHA256SUMS are: https://... or a local folder
#   INSTALL_K3S_VERSION        version to install, with or without its revision; the newest in SHA256SUMS otherwise
#   INSTALL_K3S_SKIP_DOWNLOAD  true: what is installed stays, only the service is set up
#   INSTALL_K3S_EXEC           "server" or "agent" and further flags
#   INSTALL_K3S_TYPE           server or agent, when INSTALL_K3S_EXEC does not say
#   INSTALL_K3S_SYMLINK        skip: no kubectl, crictl, ctr; force: even if there are others in PATH
#   INSTALL_K3S_SKIP_ENABLE    true: neither enabled nor started
#   INSTALL_K3S_SKIP_START     true: enabled, not started
#   INSTALL_K3S_FORCE_RESTART  true: restarted even if nothing changed
#   INSTALL_K3S_NAME           the service's name behind k3s-; it is the role's
#   INSTALL_K3S_BIN_DIR        programs' folder (/usr/local/bin)
#   INSTALL_K3S_BIN_DIR_READ_ONLY  true: nothing is written there, as with INSTALL_K3S_SKIP_DOWNLOAD
#   INSTALL_K3S_SYSTEMD_DIR    units' folder (/etc/systemd/system)
#   INSTALL_K3S_SKIP_DEPENDS   true: containerd, runc and nftables are not installed
#   K3S_*, CONTAINERD_*, *_PROXY are kept for the service, in a file that root alone may read.
#   INSTALL_K3S_SKIP_SELINUX_RPM and INSTALL_K3S_SELINUX_WARN have nothing to skip: there is no such package.
set -eu
umask 022
say() { echo "[k3s] $*"; }
die() { echo "[k3s] $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "run it as root"
for gone in COMMIT PR CHANNEL CHANNEL_URL ARTIFACT_URL; do
    eval "value=\${INSTALL_K3S_$gone:-}"
    [ -z "$value" ] || die "INSTALL_K3S_$gone is not there yet; name the release with INSTALL_K3S_URL and INSTALL_K3S_VERSION"
done
bin=${INSTALL_K3S_BIN_DIR:-/usr/local/bin}
units=${INSTALL_K3S_SYSTEMD_DIR:-/etc/systemd/system}
manifest=/etc/rancher/k3s/.installed
# include common.sh

# What the machine was booted with decides; in an image nothing was, and what is there decides.
if booted_systemd; then manager=systemd
elif [ -d /run/openrc ]; then manager=openrc
elif command -v systemctl >/dev/null; then manager=systemd
elif [ -x /sbin/openrc-run ]; then manager=openrc
else die "neither systemd nor OpenRC is here"; fi
command -v dpkg-query >/dev/null && [ "$(dpkg-query -W -f '${db:Status-Status}' k3s 2>/dev/null)" = installed ] && die "k3s is installed as a package; upgrade that, or remove it first"
command -v rpm >/dev/null && rpm -q k3s >/dev/null 2>&1 && die "k3s is installed as a package; upgrade that, or remove it first"

# Which role, and its further flags: the words of INSTALL_K3S_EXEC, in which quotes are a shell's and
# nothing is expanded, and then the arguments.
role=${INSTALL_K3S_TYPE:-}
words=$(printf '%s\n' "${INSTALL_K3S_EXEC:-}" | xargs -r -n 1 printf '%s\n' 2>/dev/null) || die "INSTALL_K3S_EXEC has a quote that does not end: $INSTALL_K3S_EXEC"
arguments=$#
while IFS= read -r word; do
    [ -z "$word" ] || set -- "$@" "$word"
done <<END
$words
END
while [ "$arguments" -gt 0 ]; do
    set -- "$@" "$1"
    shift
    arguments=$((arguments - 1))
done
case ${1:-} in server | agent) role=$1; shift ;; esac
[ -n "$role" ] || { if [ -n "${K3S_URL:-}" ]; then role=agent; else role=server; fi; }
case $role in server | agent) ;; *) die "INSTALL_K3S_TYPE is server or agent, not $role" ;; esac
[ "${INSTALL_K3S_NAME:-$role}" = "$role" ] || die "INSTALL_K3S_NAME cannot be $INSTALL_K3S_NAME: a machine has one server or agent, and its service is k3s-$role"
case ${K3S_URL:-https://} in https://*) ;; *) die "K3S_URL begins with https://, not $K3S_URL" ;; esac
if [ "$role" = agent ] && [ ! -s /etc/rancher/k3s/config.yaml ]; then
    [ -n "${K3S_URL:-}" ] || die "an agent needs K3S_URL, or server: in /etc/rancher/k3s/config.yaml"
    [ -n "${K3S_TOKEN:-}${K3S_TOKEN_FILE:-}${K3S_CLUSTER_SECRET:-}" ] || die "an agent needs K3S_TOKEN or K3S_TOKEN_FILE"
fi
service=k3s-$role

case $(uname -m) in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) die "no release for $(uname -m)" ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() {
    case $INSTALL_K3S_URL in
        http://*) die "INSTALL_K3S_URL begins with https://, or is a folder" ;;
        https://*)
            if command -v curl >/dev/null; then curl -sfL -o "$work/$1" "$INSTALL_K3S_URL/$1"
            else wget -qO "$work/$1" "$INSTALL_K3S_URL/$1"; fi || die "cannot download $INSTALL_K3S_URL/$1" ;;
        *) cp "${INSTALL_K3S_URL#file://}/$1" "$work/$1" || die "no $1 in $INSTALL_K3S_URL" ;;
    esac
}

install_depends() {
    missing=
    for program in containerd runc nft; do command -v $program >/dev/null || missing="$missing $program"; done
    [ -n "$missing" ] && [ "${INSTALL_K3S_SKIP_DEPENDS:-}" != true ] || return 0
    say "installing$missing"
    if command -v apt-get >/dev/null; then
        { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends containerd runc nftables dbus iproute2 procps; } >/dev/null
    elif command -v dnf >/dev/null; then dnf install -qy containerd runc nftables dbus iproute procps-ng >/dev/null
    elif command -v zypper >/dev/null; then zypper -q install -y containerd runc nftables dbus-1 iproute2 procps >/dev/null
    elif command -v apk >/dev/null; then apk add -q containerd containerd-ctr runc nftables dbus iproute2 procps-ng
    else die "install these first:$missing"; fi
}

# Nothing is changed before the archive is here and is the right one.
fetch_release() {
    [ -n "${INSTALL_K3S_URL:-}" ] || die "INSTALL_K3S_URL says where the release is: packaging/build makes one in target/packages"
    fetch SHA256SUMS
    version=${INSTALL_K3S_VERSION:-}
    archive=$(sed -n 's/^[0-9a-f]*  //p' "$work/SHA256SUMS" | while read -r name; do
        case $name in "k3s-${version:+$version-}$arch.tar.gz" | k3s-"${version:+$version-}"*"-$arch.tar.gz") echo "$name" ;; esac
    done | sort -V | tail -n 1)
    [ -n "$archive" ] || die "no release ${version:+$version }for $arch in $INSTALL_K3S_URL/SHA256SUMS"
    fetch "$archive"
    (cd "$work" && grep "  $archive\$" SHA256SUMS | sha256sum -c - >/dev/null 2>&1) || die "$archive is not what SHA256SUMS says; nothing was changed"
    mkdir "$work/tree"
    tar -xzf "$work/$archive" -C "$work/tree"
}

same() { if [ -L "$1" ]; then [ "$(readlink "$1")" = "$(readlink "$2")" ]; else cmp -s "$1" "$2"; fi; }

# Puts every file in place; what is in use is replaced whole, never written into.
install_files() {
    say "installing ${archive%.tar.gz}"
    mkdir -p /etc/rancher/k3s "$bin"
    : >"$work/installed"
    (cd "$work/tree" && find . ! -type d) | sort | while read -r path; do
        path=${path#.}
        case $path in
            /etc/init.d/* | /etc/conf.d/* | /etc/logrotate.d/*) [ $manager = openrc ] || continue ;;
            /usr/lib/systemd/* | /usr/lib/sysusers.d/* | /usr/lib/tmpfiles.d/*) [ $manager = systemd ] || continue ;;
        esac
        target=$path
        case $path in
            /usr/bin/*) target=$bin/${path#/usr/bin/} ;;
            /usr/lib/systemd/system/*) target=$units/${path#/usr/lib/systemd/system/} ;;
        esac
        case $target in "$units"/* | /etc/init.d/*) [ -L "$work/tree$path" ] || sed -i "s#/usr/bin/k3s#$bin/k3s#g" "$work/tree$path" ;; esac
        # Settings are the administrator's.
        case $target in /etc/rancher/* | /etc/conf.d/* | /etc/logrotate.d/* | /etc/ufw/*) [ ! -e "$target" ] || { echo "$target" >>"$work/installed"; continue; } ;; esac
        echo "$target" >>"$work/installed"
        same "$work/tree$path" "$target" && continue
        folder=${target%/*}
        while [ ! -d "$folder" ]; do echo "$folder" >>"$work/installed"; folder=${folder%/*}; done
        mkdir -p "${target%/*}"
        cp -pP "$work/tree$path" "$target.k3s-new"
        mv -f "$target.k3s-new" "$target"
        echo "$target" >>"$work/changed"
    done
    cp "$manifest" "$work/older" 2>/dev/null || true
    cp "$work/installed" "$manifest"
}

links() {
    [ "${INSTALL_K3S_SYMLINK:-}" != skip ] && [ "${INSTALL_K3S_BIN_DIR_READ_ONLY:-}" != true ] || return 0
    for name in kubectl crictl ctr; do
        [ "$(readlink "$bin/$name" 2>/dev/null)" = k3s ] && { echo "$bin/$name" >>"$manifest"; continue; }
        if command -v $name >/dev/null && [ "${INSTALL_K3S_SYMLINK:-}" != force ]; then continue; fi
        ln -sf k3s "$bin/$name"
        echo "$bin/$name" >>"$manifest"
    done
}

# The service's environment and flags, as given this time.
environment() {
    case $manager in systemd) file=$units/$service.service.env ;; openrc) file=/etc/rancher/k3s/$service.env ;; esac
    (umask 077; env | grep -E '^(K3S_|CONTAINERD_|[A-Za-z_]*_(PROXY|proxy)=)' | sort | assigned >"$work/env" || true)
    flags=
    for flag in "$@"; do flags="$flags '$(printf %s "$flag" | sed "s/'/'\\\\''/g")'"; done
    [ $manager = systemd ] || [ -z "$flags" ] || printf 'K3S_ARGS=%s\n' "$flags" | assigned >>"$work/env"
    settle "$work/env" "$file" 600
    [ $manager = systemd ] || return 0
    {
        echo '[Service]'
        echo "EnvironmentFile=-$file"
        # systemd's own signs are doubled.
        [ -z "$flags" ] || printf 'ExecStart=\nExecStart=%s/k3s %s%s\n' "$bin" "$role" "$(printf %s "$flags" | sed 's/[%$]/&&/g')"
    } >"$work/dropin"
    folder=$units/$service.service.d
    mkdir -p "$folder"
    echo "$folder" >>"$manifest"
    settle "$work/dropin" "$folder/50-install.conf" 644
}

# NAME=VALUE lines as shell and systemd both read them.
assigned() { sed 's/[\\"`$]/\\&/g; s/^\([^=]*\)=\(.*\)$/\1="\2"/'; }

# Puts a file that is made here in place, if it is another one than is there.
settle() {
    echo "$2" >>"$manifest"
    cmp -s "$1" "$2" && return 0
    cp "$1" "$2.k3s-new"
    chmod "$3" "$2.k3s-new"
    mv -f "$2.k3s-new" "$2"
    echo "$2" >>"$work/changed"
}

start() {
    changed=$(cat "$work/changed" 2>/dev/null || true)
    [ "${INSTALL_K3S_FORCE_RESTART:-}" != true ] || changed=all
    if [ $manager = systemd ]; then
        prepare_system
        [ "${INSTALL_K3S_SKIP_ENABLE:-}" != true ] || return 0
        systemctl enable --quiet "$service.service"
        [ "${INSTALL_K3S_SKIP_START:-}" != true ] && booted_systemd || return 0
        say "starting $service"
        if [ -z "$changed" ] || ! systemctl is-active --quiet "$service.service"; then systemctl start "$service.service"
        else case $changed in
            all | *"$units"/*) systemctl restart "$service.service" ;;
            # A new release alone: component after component, and the role becomes the new executable in place.
            *) restart_components && systemctl reload "$service.service" ;;
        esac fi
    else
        # The message bus reads our policy.
        [ ! -d /run/openrc ] || rc-service --quiet --ifstarted dbus reload || true
        [ "${INSTALL_K3S_SKIP_ENABLE:-}" != true ] || return 0
        rc-update --quiet add "$service" default
        [ "${INSTALL_K3S_SKIP_START:-}" != true ] || return 0
        say "starting $service"
        if [ -n "$changed" ]; then rc-service "$service" restart; else rc-service "$service" start; fi
    fi
}

grep -q '\bmemory\b' /sys/fs/cgroup/cgroup.controllers 2>/dev/null || [ -d /sys/fs/cgroup/memory ] || say "the memory control group is missing; pods with memory limits will fail (cgroup_enable=memory on the kernel's command line)"
[ "${INSTALL_K3S_BIN_DIR_READ_ONLY:-}" != true ] || INSTALL_K3S_SKIP_DOWNLOAD=true
if [ "${INSTALL_K3S_SKIP_DOWNLOAD:-}" != true ] && [ "${INSTALL_K3S_SKIP_DOWNLOAD:-}" != binary ]; then
    fetch_release
    install_depends
    install_files
else
    [ -x "$bin/k3s" ] || die "there is no $bin/k3s; without INSTALL_K3S_SKIP_DOWNLOAD it is installed"
    [ -e "$manifest" ] || die "$bin/k3s was not installed by install.sh, so its services are missing; name the archive's folder in INSTALL_K3S_URL instead of INSTALL_K3S_SKIP_DOWNLOAD"
fi
links
environment "$@"
sort -u -o "$manifest" "$manifest"
# Files that an older release had and this one has not go; folders stay on the list.
if [ -e "$work/older" ]; then
    grep -vxF -f "$manifest" "$work/older" >"$work/gone" || true
    while read -r path; do
        if [ -d "$path" ]; then echo "$path" >>"$manifest"; else rm -f "$path"; fi
    done <"$work/gone"
fi
start
say "done; remove it with $bin/k3s-uninstall.sh"
