# shellcheck shell=bash
# .deb: Debian 12 and newer, Ubuntu.

deb_file() { echo "$out/${1}_${version}-${revision}_$deb_arch.deb"; }

build_deb() {
    need dpkg-deb
    local deb_compression=-Zxz
    [ "$effort" = 9 ] || deb_compression='-Zgzip -z1'
    local package root conffiles size depends
    for package in $(packages_of deb); do
        root=$work/deb/$package
        stage deb "$package" "$root"
        mkdir -p "$root/DEBIAN" "$root/usr/share/doc/$package" "$root/usr/share/lintian/overrides"
        cp packaging/copyright "$root/usr/share/doc/$package/copyright"
        deb_changelog "$package" | gzip -9n >"$root/usr/share/doc/$package/changelog.Debian.gz"
        sed -n "s/^$package: //p" packaging/build.d/lintian | sed "s/^/$package: /" >"$root/usr/share/lintian/overrides/$package"
        [ -s "$root/usr/share/lintian/overrides/$package" ] || rm -r "$root/usr/share/lintian"
        conffiles=$(expand deb | awk -v p="$package" '$4 == p && $5 ~ /conffile/ { print $2 }')
        [ -z "$conffiles" ] || echo "$conffiles" >"$root/DEBIAN/conffiles"
        depends=$(fact "$package" deb)
        [ -z "$(fact "$package" own)" ] || depends="$(fact "$package" own) (= $version-$revision)${depends:+, $depends}"
        size=$(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f1)
        {
            echo "Package: $package"
            echo "Source: k3s"
            echo "Version: $version-$revision"
            echo "Architecture: $deb_arch"
            echo "Maintainer: $(fact k3s maintainer)"
            echo "Installed-Size: $size"
            echo "Depends: $depends"
            echo "Section: admin"
            echo "Priority: optional"
            echo "Homepage: $(fact k3s homepage)"
            echo "Description: $(fact "$package" summary)"
            fact "$package" description | fold -s -w 76 | sed 's/ *$//; s/^/ /'
        } >"$root/DEBIAN/control"
        # shellcheck disable=SC2016
        deb_script "$package" postinst 'case $1 in configure) if [ -z "$2" ]; then installed; else upgraded; fi ;; esac' "$root"
        # shellcheck disable=SC2016
        deb_script "$package" prerm 'case $1 in remove) removing ;; esac' "$root"
        # shellcheck disable=SC2016
        if [ "$package" = k3s ]; then
            deb_script "$package" postrm 'case $1 in remove) removed ;; purge) forget ;; esac' "$root"
        else
            deb_script "$package" postrm 'case $1 in remove) removed ;; esac' "$root"
        fi
        (cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
        settle "$root"
        # shellcheck disable=SC2086
        dpkg-deb --root-owner-group $deb_compression --build "$root" "$(deb_file "$package")" >/dev/null
    done
}

deb_script() {
    script "$1" "$3" >"$4/DEBIAN/$2"
    chmod 755 "$4/DEBIAN/$2"
}

deb_changelog() {
    echo "k3s ($version-$revision) unstable; urgency=medium"
    echo
    echo "  * Built from the project's own packaging."
    echo
    echo " -- $(fact k3s maintainer)  $(date -u -R -d "@$SOURCE_DATE_EPOCH")"
}
