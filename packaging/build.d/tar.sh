# shellcheck shell=bash
# k3s-VERSION-REVISION-ARCH.tar.gz: all files, for packaging/install.sh.

build_tar() {
    local root=$work/tar package
    for package in $(packages); do stage tar "$package" "$root"; done
    settle "$root"
    tar -C "$root" --sort=name --owner=root:0 --group=root:0 --format=ustar -cf - . | gzip "-${effort}n" >"$out/k3s-$version-$revision-$deb_arch.tar.gz"
    whole packaging/install.sh >"$out/install.sh"
}
