# shellcheck shell=bash
# Guests for the kernel tests: a Debian root with a kernel that has one of the two modules, as an
# ext4 image that QEMU boots without any hardware virtualisation. To be sourced.
#
#   guest_image GUEST            builds it if need be, prints its directory
#
# GUEST   kernel                        module         userland (roots.sh)
# ovpn    newest of trixie-backports    in the kernel  sid     (OpenVPN 2.7)
# v2      trixie's own                  built here     trixie  (OpenVPN 2.6)

# shellcheck source=ci/lib/roots.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/roots.sh"

# shellcheck disable=SC2034 # for the scripts that source this one
GUESTS=(ovpn v2)
GUEST_DIR=$REPO/ci/vm

guest_suite() {
    case $1 in
        ovpn) echo sid ;;
        v2) echo trixie ;;
        *) die "no guest '$1': ovpn or v2" ;;
    esac
}

guest_kernel_suite() {
    case $1 in
        ovpn) echo trixie-backports ;;
        v2) echo trixie ;;
    esac
}

# apt_of SUITE COMMAND...: this machine's apt tools with the package lists of another suite, and
# none of this machine's state.
apt_of() {
    local suite=$1 dir tool=$2
    shift 2
    dir=$(cache_dir)/vm/apt/$suite
    if [ ! -e "$dir/complete" ]; then
        mkdir -p "$dir"/{lists,archives}/partial
        : >"$dir/status"
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $suite main" \
            >"$dir/sources.list"
    fi
    local options=(
        -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State=$dir" -o "Dir::State::lists=$dir/lists" -o "Dir::State::status=$dir/status"
        -o "Dir::Cache=$dir" -o "Dir::Cache::archives=$dir/archives"
        -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3
    )
    if [ ! -e "$dir/complete" ]; then
        apt-get -qq "${options[@]}" update >&2 || die "apt cannot read the package lists of $suite"
        touch "$dir/complete"
    fi
    "$tool" "${options[@]}" "$@"
}

# The packages that make up the newest cloud kernel of a suite, less what installing it would pull
# in (initramfs tools and the like): NAME=VERSION lines.
kernel_packages() {
    local suite=$1 meta image
    meta=$(apt_of "$suite" apt-cache depends --important linux-image-cloud-amd64)
    image=$(awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2 }' <<<"$meta" | tail -n 1)
    [ -n "$image" ] || die "$suite has no cloud kernel"
    echo "$image"
    apt_of "$suite" apt-cache depends --important "$image" |
        awk '$1 == "Depends:" && $2 ~ /^linux-(binary|modules)-/ { print $2 }'
}

# Downloads packages of a suite into the current directory and unpacks them into DIR.
unpack_packages() {
    local suite=$1 dir=$2 deb
    shift 2
    (
        cd "$dir.debs"
        apt_of "$suite" apt-get -qq -o APT::Sandbox::User=root download "$@" >&2
        for deb in *.deb; do dpkg-deb -x "$deb" "$dir"; done
    )
}

# Builds ovpn-dco-v2.ko for a kernel inside a throw-away layer over the trixie root, which gets
# the compiler and the kernel's headers.
build_v2_module() {
    local release=$1 target=$2 root layer
    root=$(debian_root trixie)
    layer=$(mktemp -d "$(cache_dir)/vm/kbuild.XXXXXX")
    mkdir "$layer"/{upper,work,merged}
    if ! unshare --mount --propagation private bash -s -- "$root" "$layer" "$release" "$target" >&2 <<'BUILD'; then
        set -euo pipefail
        root=$1 layer=$2 release=$3 target=$4
        mount -t overlay overlay -o "lowerdir=$root,upperdir=$layer/upper,workdir=$layer/work" "$layer/merged"
        mount -t proc proc "$layer/merged/proc"
        mount --rbind /dev "$layer/merged/dev"
        # The source package of the module is unpacked, not installed: its installation would try
        # to build for the running kernel.
        chroot "$layer/merged" bash -euc '
            export DEBIAN_FRONTEND=noninteractive
            apt-get -qq update
            apt-get -qq -y install --no-install-recommends make "linux-headers-$1" >/dev/null
            cd /tmp
            apt-get -qq download openvpn-dco-dkms
            dpkg-deb -x openvpn-dco-dkms_*.deb dkms
            cd dkms/usr/src/ovpn-dco*/
            make -s REVISION=debian KERNEL_SRC="/lib/modules/$1/build" >/tmp/build.log 2>&1 ||
                { tail -n 30 /tmp/build.log; exit 1; }
            find . -name ovpn-dco-v2.ko -exec strip --strip-debug {} + -exec cp {} /tmp/ovpn-dco-v2.ko \;
        ' build "$release"
        cp "$layer/merged/tmp/ovpn-dco-v2.ko" "$target"
BUILD
        rm -rf --one-file-system "$layer"
        die "building ovpn-dco-v2 for $release failed"
    fi
    rm -rf --one-file-system "$layer"
}

# The kernel's own test tool for `ovpn`, from the sources of the guest's kernel. Static: in the
# guest is another C library.
build_ovpn_cli() {
    local dir=$1 work=$1/cli suite source tools
    suite=$(guest_kernel_suite ovpn)
    apt_install gcc libc6-dev libnl-genl-3-dev libmbedtls-dev
    source=$(apt_of "$suite" apt-cache depends --important linux-source | awk '$1 == "Depends:" { print $2 }')
    mkdir "$work" "$work.debs"
    unpack_packages "$suite" "$work" "$source" linux-libc-dev
    tools=$source/tools/testing/selftests
    tar -xJf "$work/usr/src/$source.tar.xz" -C "$work" "$tools/kselftest.h" "$tools/net/ovpn/ovpn-cli.c"
    gcc -O1 -w -static -I"$work/usr/include" -I"$work/$tools" -I/usr/include/libnl3 \
        "$work/$tools/net/ovpn/ovpn-cli.c" -o "$dir/ovpn-cli" -lnl-genl-3 -lnl-3 -lmbedtls -lmbedcrypto
    rm -rf "$work" "$work.debs"
}

guest_image() {
    local guest=$1 root dir stamp
    mkdir -p "$(cache_dir)/vm"
    dir=$(cache_dir)/vm/$guest
    (
        flock 9
        apt_install busybox-static cpio e2fsprogs kmod xz-utils binutils >&2
        root=$(debian_root "$(guest_suite "$guest")")
        # Built again when this script or the root changes.
        stamp=$(cat "$GUEST_DIR/guest.sh" "$GUEST_DIR/init" "$root/var/lib/dpkg/status" | sha256sum)
        if [ "$(cat "$dir/stamp" 2>/dev/null)" = "$stamp" ]; then
            exit 0
        fi
        say "building the guest $guest"
        rm -rf --one-file-system "$dir"
        mkdir -p "$dir"
        build_image "$guest" "$root" "$dir" >&2
        echo "$stamp" >"$dir/stamp"
    ) 9>"$dir.lock" || return 1
    printf '%s\n' "$dir"
}

build_image() {
    local guest=$1 root=$2 dir=$3 kernel release modules stage packages
    kernel=$dir/kernel
    # What the lists of an earlier build name may be gone from the mirror.
    rm -f "$(cache_dir)/vm/apt/$(guest_kernel_suite "$guest")/complete"
    mkdir "$kernel" "$kernel.debs"
    mapfile -t packages < <(kernel_packages "$(guest_kernel_suite "$guest")")
    say "kernel: ${packages[*]}"
    unpack_packages "$(guest_kernel_suite "$guest")" "$kernel" "${packages[@]}"
    modules=$(echo "$kernel"{,/usr}/lib/modules/*/kernel)
    modules=$(for m in $modules; do [ -d "$m" ] && dirname "$m"; done)
    release=$(basename "$modules")
    # Newer packages keep the kernel image beside its modules.
    if [ -e "$modules/vmlinuz" ]; then
        cp "$modules/vmlinuz" "$dir/vmlinuz"
    else
        cp "$kernel/boot/vmlinuz-$release" "$dir/vmlinuz"
    fi

    # The root's files by hard link, so that only what is new takes time and room.
    stage=$dir/stage
    cp -al "$root" "$stage"
    rm -rf "${stage:?}"/{boot,proc,sys,dev,run,tmp,var/cache/apt,var/lib/apt/lists,usr/share/{doc,man,locale}}
    mkdir -p "$stage"/{proc,sys,dev,run,tmp,job} "$stage/usr/lib/modules"
    cp -r "$modules" "$stage/usr/lib/modules/$release"
    rm -f "$stage/usr/lib/modules/$release"/{build,source,vmlinuz}
    if [ "$guest" = v2 ]; then
        mkdir "$stage/usr/lib/modules/$release/updates"
        build_v2_module "$release" "$stage/usr/lib/modules/$release/updates/ovpn-dco-v2.ko"
    fi
    depmod -b "$stage/usr" "$release" 2>/dev/null || depmod -b "$stage" "$release"
    cp --remove-destination "$GUEST_DIR/init" "$stage/usr/sbin/guest-init"
    chmod 755 "$stage/usr/sbin/guest-init"
    cp --remove-destination "$(command -v busybox)" "$stage/usr/sbin/busybox-static"
    mke2fs -q -t ext4 -O ^has_journal -d "$stage" "$dir/root.img" 2G

    # The first stage only finds the root.
    mkdir -p "$dir/initrd"/{bin,dev,root}
    cp "$(command -v busybox)" "$dir/initrd/bin/busybox"
    local block
    block=$(find "$modules" -name 'virtio_blk.ko*' | head -n 1)
    case $block in
        *.xz) xz -dc "$block" >"$dir/initrd/virtio_blk.ko" ;;
        *.ko) cp "$block" "$dir/initrd/virtio_blk.ko" ;;
        *) die "the kernel $release has no virtio_blk module" ;;
    esac
    cat >"$dir/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /virtio_blk.ko
until [ -b /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /usr/sbin/guest-init
INIT
    chmod 755 "$dir/initrd/init"
    [ "$guest" != ovpn ] || build_ovpn_cli "$dir"
    (cd "$dir/initrd" && find . | cpio --quiet -o -H newc | gzip -1 >"$dir/initrd.gz")
    rm -rf --one-file-system "$stage" "$kernel" "$kernel.debs" "$dir/initrd"
}
