# shellcheck shell=bash
# Repositories beside the packages: target/packages/repo/{apt,dnf,apk}, from whatever has been built.

build_repo() {
    rm -rf "$out/repo"
    compgen -G "$out/*_$deb_arch.deb" >/dev/null && repo_apt
    compgen -G "$out/*.$machine.rpm" >/dev/null && repo_dnf
    compgen -G "$out/*.apk" >/dev/null && repo_apk
    return 0
}

# deb [signed-by=/usr/share/keyrings/k3s-archive-keyring.gpg] URL/apt stable main
repo_apt() {
    need apt-ftparchive
    local root=$out/repo/apt
    mkdir -p "$root/pool" "$root/dists/stable/main/binary-$deb_arch"
    ln "$out"/*_"$deb_arch".deb "$root/pool/"
    (
        cd "$root" || exit
        apt-ftparchive packages pool >"dists/stable/main/binary-$deb_arch/Packages"
        gzip -9kn "dists/stable/main/binary-$deb_arch/Packages"
        apt-ftparchive -o APT::FTPArchive::Release::Origin=k3s -o APT::FTPArchive::Release::Label=k3s \
            -o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Codename=stable \
            -o APT::FTPArchive::Release::Architectures="$deb_arch" -o APT::FTPArchive::Release::Components=main \
            release dists/stable >"$work/Release"
        sed "s/^Date: .*/Date: $(date -u -R -d "@$SOURCE_DATE_EPOCH")/" "$work/Release" >dists/stable/Release
        signing 'the apt repository is' || exit 0
        sign --armor --detach-sign --output dists/stable/Release.gpg dists/stable/Release
        sign --clearsign --output dists/stable/InRelease dists/stable/Release
        gpg --batch --export "$K3S_GPG_KEY" >k3s-archive-keyring.gpg
    )
}

repo_dnf() {
    need createrepo_c
    local root=$out/repo/dnf
    mkdir -p "$root"
    ln "$out"/*."$machine".rpm "$root/"
    # The list tells the files' times.
    settle "$root"
    createrepo_c --quiet --no-database --revision "$SOURCE_DATE_EPOCH" --set-timestamp-to-revision "$root"
    signing 'the dnf repository is' || return 0
    sign --armor --detach-sign --output "$root/repodata/repomd.xml.asc" "$root/repodata/repomd.xml"
    gpg --batch --armor --export "$K3S_GPG_KEY" >"$root/RPM-GPG-KEY-k3s"
}

# URL/apk in /etc/apk/repositories; the key goes to /etc/apk/keys.
repo_apk() {
    local root=$out/repo/apk/$machine package
    apk_key
    mkdir -p "$root" "$work/index"
    ln "$out"/*-"$version-r$revision".apk "$root/"
    cp "$apk_key.pub" "$out/repo/apk/"
    for package in $(packages_of apk); do cat "$out/.$package.index"; done >"$work/index/APKINDEX"
    echo "k3s $version" >"$work/index/DESCRIPTION"
    settle "$work/index"
    tar_plain "$work/index" "$work/index.tar" DESCRIPTION APKINDEX
    gzip -9n <"$work/index.tar" >"$work/index.gz"
    apk_sign "$work/index.gz" "$work/index.sign"
    cat "$work/index.sign" "$work/index.gz" >"$root/APKINDEX.tar.gz"
}
