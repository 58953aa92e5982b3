# shellcheck shell=bash
# .apk: Alpine's format, version 2. Three gzip streams that together are one tar archive: the signature,
# the control files (whose SHA-1 is the package's identity), the data (whose SHA-256 the control names,
# and whose files carry their SHA-1 in PAX headers).

build_apk() {
    need openssl
    local package root names=()
    apk_key
    for package in $(packages_of apk); do
        root=$work/apk/$package
        stage apk "$package" "$root/data"
        settle "$root/data"
        apk_data "$root/data" "$root/data.tar"
        gzip "-${effort}n" <"$root/data.tar" >"$root/data.gz"
        mkdir -p "$root/control"
        apk_info "$package" "$root" >"$root/control/.PKGINFO"
        apk_scripts "$package" "$root/control"
        settle "$root/control"
        mapfile -t names < <(cd "$root/control" && find . -type f -printf '%P\n' | sort)
        tar_plain "$root/control" "$root/control.tar" "${names[@]}"
        apk_cut "$root/control.tar" | gzip -9n >"$root/control.gz"
        apk_sign "$root/control.gz" "$root/signature.gz"
        cat "$root/signature.gz" "$root/control.gz" "$root/data.gz" >"$out/$package-$version-r$revision.apk"
        apk_index_entry "$package" "$root" >"$out/.$package.index"
    done
    cp "$apk_key.pub" "$out/"
}

# The signing key; its name is part of every signature, and machines look it up in /etc/apk/keys.
apk_key() {
    apk_key=${K3S_APK_KEY:-$out/keys/k3s.rsa}
    if [ ! -e "$apk_key" ]; then
        mkdir -p "$(dirname "$apk_key")"
        (umask 077 && openssl genrsa -out "$apk_key" 4096 2>/dev/null)
    fi
    [ -e "$apk_key.pub" ] || openssl rsa -in "$apk_key" -pubout -out "$apk_key.pub" 2>/dev/null
}

# Every stream but the last ends without the two blocks of zeros that end an archive.
apk_cut() { head -c -1024 "$1"; }

# An archive without anything of this machine in it.
tar_plain() {
    local folder=$1 archive=$2
    shift 2
    tar -C "$folder" --format=ustar -b 1 --owner=root:0 --group=root:0 --mtime="@$SOURCE_DATE_EPOCH" --no-recursion -cf "$archive" "$@"
}

apk_sign() {
    local folder
    folder=$(mktemp -d "$work/sign.XXXXXX")
    local name=.SIGN.RSA.${apk_key##*/}.pub
    openssl dgst -sha1 -sign "$apk_key" -out "$folder/$name" "$1"
    tar_plain "$folder" "$folder.tar" "$name"
    apk_cut "$folder.tar" | gzip -9n >"$2"
}

# One file after the other, since each has its own checksum in its header. GNU tar writes a header only
# if it has a reason of its own: half a second, which the plain header cannot say.
apk_data() {
    local folder=$1 archive=$2 name options
    options='exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime'
    find "$folder" -exec touch -h -d "@$SOURCE_DATE_EPOCH.5" {} +
    : >"$archive"
    while read -r name; do
        local with=$options
        # A link's checksum is that of its target's name.
        if [ -L "$folder/$name" ]; then
            with=$with,APK-TOOLS.checksum.SHA1:=$(readlink -n "$folder/$name" | sha1sum | cut -d' ' -f1)
        elif [ ! -d "$folder/$name" ]; then
            with=$with,APK-TOOLS.checksum.SHA1:=$(sha1sum "$folder/$name" | cut -d' ' -f1)
        fi
        tar -C "$folder" --format=pax -b 1 --pax-option="$with" --owner=root:0 --group=root:0 --no-recursion -cf "$archive.part" "$name"
        apk_cut "$archive.part" >>"$archive"
    done < <(cd "$folder" && find . -mindepth 1 -printf '%P\n' | sort)
    head -c 1024 /dev/zero >>"$archive"
}

apk_info() {
    local package=$1 root=$2 depends
    echo "pkgname = $package"
    echo "pkgver = $version-r$revision"
    echo "pkgdesc = $(fact "$package" summary)"
    echo "url = $(fact k3s homepage)"
    echo "builddate = $SOURCE_DATE_EPOCH"
    echo "packager = $(fact k3s maintainer)"
    echo "size = $(du -b -s --apparent-size "$root/data" | cut -f1)"
    echo "arch = $machine"
    echo 'origin = k3s'
    echo 'license = Apache-2.0'
    echo "maintainer = $(fact k3s maintainer)"
    for depends in $(fact "$package" apk); do echo "depend = $depends"; done
    depends=$(fact "$package" own)
    [ -z "$depends" ] || echo "depend = $depends=$version-r$revision"
    # As Alpine has it: services come with their package where OpenRC is.
    [ "$package" != k3s-openrc ] || echo "install_if = k3s=$version-r$revision openrc"
    echo "datahash = $(sha256sum "$root/data.gz" | cut -d' ' -f1)"
}

apk_scripts() {
    script "$1" installed >"$2/.post-install"
    script "$1" upgraded >"$2/.post-upgrade"
    script "$1" removing >"$2/.pre-deinstall"
    script "$1" removed >"$2/.post-deinstall"
    chmod 755 "$2"/.p*
}

apk_index_entry() {
    local package=$1 root=$2
    echo "C:Q1$(openssl dgst -sha1 -binary "$root/control.gz" | base64)"
    sed -n 's/^pkgname = /P:/p; s/^pkgver = /V:/p; s/^arch = /A:/p' "$root/control/.PKGINFO"
    echo "S:$(stat -c %s "$out/$package-$version-r$revision.apk")"
    sed -n 's/^size = /I:/p; s/^pkgdesc = /T:/p; s/^url = /U:/p; s/^license = /L:/p; s/^origin = /o:/p
            s/^maintainer = /m:/p; s/^builddate = /t:/p' "$root/control/.PKGINFO"
    echo "D:$(sed -n 's/^depend = //p' "$root/control/.PKGINFO" | paste -sd' ')" | sed '/^D:$/d'
    sed -n 's/^install_if = /i:/p' "$root/control/.PKGINFO"
    echo
}
