# shellcheck shell=bash
# Guests for the kernel tests: a Debian root with a kernel that has one of the two modules, as an
# ext4 image that QEMU boots without any hardware virtualisation. To be sourced.
#
#   guest_image GUEST            builds it if need be, prints its directory
#
# GUEST   kernel                        module         userland
# ovpn    newest of trixie-backports    in the kernel  the root of sid     (OpenVPN 2.7)
# v2      trixie's own                  built here     the root of trixie  (OpenVPN 2.6)
# arm64   as ovpn, for arm64            in the kernel  packages of sid, unpacked (OpenVPN 2.7)

# shellcheck source=ci/lib/roots.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib/roots.sh"

# shellcheck disable=SC2034 # for the scripts that source this one
GUESTS=(ovpn v2 arm64)
GUEST_DIR=$REPO/ci/vm

# What the jobs of a guest run that has no root which is installed in the ordinary way.
UNPACKED_PACKAGES=(base-files base-passwd bash busybox-static coreutils dash diffutils findutils grep hostname
    iproute2 iputils-ping kmod libc-bin mount openssl openvpn procps sed tar util-linux)

# Debian's name for the processor of a guest.
guest_architecture() {
    case $1 in
        ovpn | v2) echo amd64 ;;
        arm64) echo arm64 ;;
        *) die "no guest '$1': ${GUESTS[*]}" ;;
    esac
}

# Where a guest's userland comes from, a suite.
guest_suite() {
    case $1 in
        ovpn | arm64) echo sid ;;
        v2) echo trixie ;;
    esac
}

# Where its kernel comes from, SUITE/ARCHITECTURE.
guest_kernel_archive() {
    case $1 in
        ovpn | arm64) echo "trixie-backports/$(guest_architecture "$1")" ;;
        v2) echo trixie/amd64 ;;
    esac
}

# apt_of SUITE/ARCHITECTURE COMMAND...: this machine's apt tools with the package lists of another suite
# and processor, and none of this machine's state.
apt_of() {
    local suite=${1%/*} architecture=${1#*/} dir tool=$2
    dir=$(cache_dir)/vm/apt/$1
    shift 2
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
        -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
        -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o Acquire::Retries=3
    )
    if [ ! -e "$dir/complete" ]; then
        apt-get -qq "${options[@]}" update >&2 || die "apt cannot read the package lists of $suite for $architecture"
        touch "$dir/complete"
    fi
    "$tool" "${options[@]}" "$@"
}

# The packages that make up the newest cloud kernel of an archive, less what installing it would pull
# in (initramfs tools and the like), one a line.
kernel_packages() {
    local archive=$1 meta image
    meta=$(apt_of "$archive" apt-cache depends --important "linux-image-cloud-${archive#*/}")
    image=$(awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2 }' <<<"$meta" | tail -n 1)
    [ -n "$image" ] || die "$archive has no cloud kernel"
    echo "$image"
    apt_of "$archive" apt-cache depends --important "$image" |
        awk '$1 == "Depends:" && $2 ~ /^linux-(binary|modules)-/ { print $2 }'
}

# unpack_packages ARCHIVE DIR PACKAGE...: downloads packages and unpacks them into DIR.
unpack_packages() {
    local archive=$1 dir=$2 deb
    shift 2
    mkdir -p "$dir" "$dir.debs"
    (
        cd "$dir.debs"
        apt_of "$archive" apt-get -qq -o APT::Sandbox::User=root download "$@" >&2
        for deb in *.deb; do dpkg-deb -x "$deb" "$dir"; done
    )
    rm -rf "$dir.debs"
}

# A root for a processor that is not this machine's: none of its programs runs here, so its packages are
# only unpacked, and what their installation would write stands below.
unpack_root() {
    local archive=$1 dir=$2 packages
    rm -f "$(cache_dir)/vm/apt/$archive/complete"
    mapfile -t packages < <(
        apt_of "$archive" apt-get -qq --simulate --no-install-recommends install "${UNPACKED_PACKAGES[@]}" |
            awk '$1 == "Inst" { print $2 }'
    )
    [ ${#packages[@]} -gt 0 ] || die "$archive lacks one of: ${UNPACKED_PACKAGES[*]}"
    unpack_packages "$archive" "$dir" "${packages[@]}"
    cp "$dir/usr/share/base-passwd/passwd.master" "$dir/etc/passwd"
    cp "$dir/usr/share/base-passwd/group.master" "$dir/etc/group"
    echo '127.0.0.1 localhost' >"$dir/etc/hosts"
    echo 'nameserver 127.0.0.1' >"$dir/etc/resolv.conf"
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
    local dir=$1 work=$1/cli archive source tools
    archive=$(guest_kernel_archive ovpn)
    apt_install gcc libc6-dev libnl-genl-3-dev libmbedtls-dev
    source=$(apt_of "$archive" apt-cache depends --important linux-source | awk '$1 == "Depends:" { print $2 }')
    unpack_packages "$archive" "$work" "$source" linux-libc-dev
    tools=$source/tools/testing/selftests
    tar -xJf "$work/usr/src/$source.tar.xz" -C "$work" "$tools/kselftest.h" "$tools/net/ovpn/ovpn-cli.c"
    gcc -O1 -w -static -I"$work/usr/include" -I"$work/$tools" -I/usr/include/libnl3 \
        "$work/$tools/net/ovpn/ovpn-cli.c" -o "$dir/ovpn-cli" -lnl-genl-3 -lnl-3 -lmbedtls -lmbedcrypto
    rm -rf "$work"
}

guest_image() {
    local guest=$1 architecture root='' dir stamp
    architecture=$(guest_architecture "$guest")
    mkdir -p "$(cache_dir)/vm"
    dir=$(cache_dir)/vm/$guest
    (
        flock 9
        apt_install busybox-static cpio e2fsprogs kmod xz-utils binutils >&2
        [ "$architecture" = arm64 ] || root=$(debian_root "$(guest_suite "$guest")")
        # Built again when this script or the root changes.
        stamp=$(cat "$GUEST_DIR/guest.sh" "$GUEST_DIR/init" ${root:+"$root/var/lib/dpkg/status"} | sha256sum)
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

# build_image GUEST ROOT DIR: no ROOT, if it is to be unpacked.
build_image() {
    local guest=$1 root=$2 dir=$3 archive kernel release modules stage packages busybox
    archive=$(guest_kernel_archive "$guest")
    kernel=$dir/kernel
    # What the lists of an earlier build name may be gone from the mirror.
    rm -f "$(cache_dir)/vm/apt/$archive/complete"
    mapfile -t packages < <(kernel_packages "$archive")
    say "kernel: ${packages[*]}"
    unpack_packages "$archive" "$kernel" "${packages[@]}"
    modules=$(echo "$kernel"{,/usr}/lib/modules/*/kernel)
    modules=$(for m in $modules; do [ -d "$m" ] && dirname "$m"; done)
    release=$(basename "$modules")
    # Newer packages keep the kernel image beside its modules.
    if [ -e "$modules/vmlinuz" ]; then
        cp "$modules/vmlinuz" "$dir/vmlinuz"
    else
        cp "$kernel/boot/vmlinuz-$release" "$dir/vmlinuz"
    fi

    stage=$dir/stage
    if [ -n "$root" ]; then
        # By hard link, so that only what is new takes time and room.
        cp -al "$root" "$stage"
        busybox=$(command -v busybox)
    else
        unpack_root "$(guest_suite "$guest")/$(guest_architecture "$guest")" "$stage"
        busybox=$stage/usr/bin/busybox
    fi
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
    cp --remove-destination "$busybox" "$stage/usr/sbin/busybox-static"
    mke2fs -q -t ext4 -O ^has_journal -d "$stage" "$dir/root.img" 2G

    # The first stage only finds the root.
    mkdir -p "$dir/initrd"/{bin,dev,root}
    cp "$busybox" "$dir/initrd/bin/busybox"
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
    rm -rf --one-file-system "$stage" "$kernel" "$dir/initrd"
}
