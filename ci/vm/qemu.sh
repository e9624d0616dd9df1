# shellcheck shell=bash
# The emulator of the guests: trixie's QEMU 10, wherever this machine's own suite stands. The 7.2 of
# bookworm takes half as much time again for the same tests. To be sourced.
#
#   qemu_program    unpacks it if need be; prints a program: PROGRAM ARCHITECTURE ARGUMENT...

# shellcheck source=ci/vm/guest.sh
. "$(dirname "${BASH_SOURCE[0]}")/guest.sh"

QEMU_PACKAGES=(qemu-system-x86 qemu-system-arm)

qemu_program() {
    local dir stamp
    mkdir -p "$(cache_dir)/vm"
    dir=$(cache_dir)/vm/qemu
    (
        flock 9
        # Unpacked again when this script changes.
        stamp=$(sha256sum <"$GUEST_DIR/qemu.sh")
        if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ]; then
            exit 0
        fi
        say "unpacking QEMU"
        rm -rf "$dir"
        mkdir -p "$dir/debs/partial"
        # No package counts as installed there, so all that they depend on comes, too.
        apt_of trixie/amd64 apt-get -qq -y --no-install-recommends --download-only \
            -o APT::Sandbox::User=root -o "Dir::Cache::archives=$dir/debs" install "${QEMU_PACKAGES[@]}" >&2
        for deb in "$dir"/debs/*.deb; do dpkg-deb -x "$deb" "$dir"; done
        rm -rf "$dir"/debs "$dir"/usr/share/{doc,man,locale}
        # Nothing of it is installed: it runs with its own loader and libraries, where it is.
        cat >"$dir/qemu" <<'PROGRAM'
#!/bin/bash
usr=$(dirname "$0")/usr
program=$usr/bin/qemu-system-$1
shift
exec "$usr/lib64/ld-linux-x86-64.so.2" --library-path "$usr/lib/x86_64-linux-gnu" "$program" \
    -L "$usr/share/qemu" -L "$usr/share/seabios" "$@"
PROGRAM
        chmod 755 "$dir/qemu"
        echo "$stamp" >"$dir/stamp"
    ) 9>"$dir.lock" || return 1
    printf '%s\n' "$dir/qemu"
}
