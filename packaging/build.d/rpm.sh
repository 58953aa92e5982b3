# shellcheck shell=bash
# .rpm: Fedora, RHEL and SUSE conventions.

build_rpm() {
    need rpmbuild
    local package root=$work/rpm file target mode owner flags
    mkdir -p "$root/tree"
    for package in $(packages_of rpm); do
        stage rpm "$package" "$root/tree"
        install -D -m 0644 packaging/copyright "$root/tree/usr/share/doc/$package/copyright"
    done
    settle "$root/tree"
    {
        rpm_preamble
        for package in $(packages_of rpm); do rpm_package "$package"; done
        # Names of services and their settings are in the files; there is nothing to compile here.
        echo '%install'
        echo "cp -a $root/tree/. %{buildroot}/"
        for package in $(packages_of rpm); do
            echo "%files -n $package"
            echo '%defattr(-,root,root,-)'
            echo "%doc %attr(0644,root,root) /usr/share/doc/$package/copyright"
            rpm_folders "$package"
            while read -r file target mode owner flags; do
                [ "$owner" = "$package" ] || continue
                case ,$flags, in *,conffile,*) printf '%%config(noreplace) ' ;; esac
                [ "$file" = dir ] && printf '%%dir '
                case $target in /usr/share/man/*) printf '%%doc ' ;; esac
                if [[ $file == '->'* ]]; then echo "$target"; else echo "%attr($mode,root,root) $target"; fi
            done < <(expand rpm)
        done
        echo '%changelog'
        echo "* $(date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y') $(fact k3s maintainer) - $version-$revision"
        echo "- Built from the project's own packaging."
    } >"$root/k3s.spec"
    rpmbuild -bb --quiet --target "$machine" \
        --define "_topdir $root/top" --define "_rpmdir $root/done" \
        --define '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
        --define '_buildhost localhost' --define 'use_source_date_epoch_as_buildtime 1' \
        --define 'clamp_mtime_to_source_date_epoch 1' --define "_binary_payload $([ "$effort" = 9 ] && echo w19.zstdio || echo w1.gzdio)" \
        --define 'debug_package %{nil}' --define '__os_install_post %{nil}' --define '_build_id_links none' \
        "$root/k3s.spec"
    if signing 'rpm packages are'; then
        rpmsign --define "__gpg $(command -v gpg)" --define "_gpg_name $K3S_GPG_KEY" --define "_gpg_path ${GNUPGHOME:-$HOME/.gnupg}" --addsign "$root"/done/*.rpm >/dev/null
    fi
    mv "$root"/done/*.rpm "$out/"
}

# Folders that no package brings which every machine has: rpm leaves behind what nobody owns.
rpm_folders() {
    local package=$1 file target mode owner flags folder
    while read -r file target mode owner flags; do
        [ "$owner" = "$package" ] || continue
        folder=$(dirname "$target")
        while :; do
            case $folder in
                *.service.d | *.target.wants | /usr/lib/firewalld* | /usr/share/dbus-1/interfaces | /usr/share/fish* | /usr/share/zsh*)
                    echo "%dir %attr(0755,root,root) $folder" ;;
                *) break ;;
            esac
            folder=$(dirname "$folder")
        done
    done < <(expand rpm) | sort -u
    echo "%dir %attr(0755,root,root) /usr/share/doc/$package"
}

rpm_preamble() {
    echo 'Name: k3s'
    echo "Version: $version"
    echo "Release: $revision"
    echo 'License: Apache-2.0'
    echo "URL: $(fact k3s homepage)"
    echo "Packager: $(fact k3s maintainer)"
    echo 'AutoReqProv: no'
}

rpm_package() {
    local package=$1 own
    [ "$package" = k3s ] || echo "%package -n $package"
    echo "Summary: $(fact "$package" summary)"
    echo 'Group: System/Management'
    own=$(fact "$package" own)
    # Its scriptlets go by the presets of the other package, so they come after it and end before it.
    [ -z "$own" ] || printf 'Requires%s: %s\n' '' "$own = %{version}-%{release}" '(post,preun)' "$own"
    fact "$package" rpm | tr ',' '\n' | sed '/./ s/^ */Requires: /'
    echo "%description -n $package"
    fact "$package" description | fold -s -w 76
    # The count of instances that remain tells what happens: none (0), the first or last (1), an upgrade (2).
    # shellcheck disable=SC2016
    {
        rpm_script post "$package" 'if [ "$1" = 1 ]; then installed; else upgraded; fi'
        rpm_script preun "$package" 'if [ "$1" = 0 ]; then removing; fi'
        rpm_script postun "$package" 'if [ "$1" = 0 ]; then removed; fi'
    }
}

# In a spec a percent sign begins a macro.
rpm_script() {
    echo "%$1 -n $2"
    script "$2" "$3" | sed '1d; s/%/%%/g'
}
