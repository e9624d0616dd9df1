#!/bin/bash
# Debian roots of other suites, for peers that this machine's own suite does not have.
# Source it, or run it:  ci/lib/roots.sh SUITE PACKAGE...   prints the root's path.

# shellcheck source=ci/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# What the tests need in every root, in one place so that all callers share one root per suite, and
# nothing that is made of a root (a guest's image) has to be made again when the next step wants more:
# openvpn is 2.6 in trixie and 2.7 in sid, openvpn3-client 24.1 and 27.1.
ROOT_PACKAGES=(openvpn openvpn3-client dbus python3-dbus python3-gi iperf3 iproute2 iputils-ping procps
    libcap2-bin openssl softhsm2 opensc kmod tcpdump nftables psmisc)

# The mirror this machine's own apt uses for Debian: the first main archive in its configuration
# (not security, not a third party). A fresh machine elsewhere has another one, so none is written
# down here.
debian_mirror() {
    local file uri
    for file in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -r "$file" ] || continue
        uri=$(awk '
            FNR == 1 { uri = ""; }
            /^[[:space:]]*#/ { next }
            /^[Uu][Rr][Ii][Ss]:/ { uri = $2 }
            $1 == "deb" {
                for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { uri = $i; break }
            }
            uri ~ /\/debian\/?$/ { print uri; exit }
        ' "$file")
        if [ -n "$uri" ]; then
            printf '%s\n' "${uri%/}"
            return 0
        fi
    done
    die "no Debian archive in /etc/apt/sources.list or /etc/apt/sources.list.d: cannot tell where to get packages from"
}

# The proxy apt is told to use, for tools that only know the environment.
apt_proxy_env() {
    local proxy
    proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy 2>/dev/null | head -n 1)
    if [ -n "$proxy" ] && [ "$proxy" != DIRECT ]; then
        export http_proxy=$proxy https_proxy=$proxy
    fi
}

# in_root ROOT COMMAND...: runs a command inside a root, with /proc, /dev and /sys as they are here,
# but for /dev/net/tun, which everybody may open there as on every Debian: without udev it is root's.
# The mounts live in a mount namespace of their own, so nothing is left behind however it ends.
in_root() {
    local root=$1
    shift
    # shellcheck disable=SC2016 # the inner shell expands it
    unshare --mount --propagation private bash -c '
        root=$1; shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        if [ -c /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" != 666 ]; then
            mount -t tmpfs -o mode=755 net "$root/dev/net"
            mknod -m 666 "$root/dev/net/tun" c 10 200
        fi
        mount -t sysfs sysfs "$root/sys" 2>/dev/null || mount --rbind /sys "$root/sys"
        [ ! -d /run/netns ] || { mkdir -p "$root/run/netns"; mount --rbind /run/netns "$root/run/netns"; }
        exec chroot "$root" /usr/bin/env -u TMPDIR "$@"
    ' in_root "$root" "$@"
}

root_has() {
    local root=$1 pkg
    shift
    for pkg in "$@"; do
        [ "$(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${db:Status-Status}' "$pkg" 2>/dev/null || true)" = installed ] ||
            return 1
    done
}

# debian_root SUITE PACKAGE...: a Debian root of SUITE that has at least the packages named
# above and PACKAGE..., built if it is not there yet. Prints its path.
debian_root() {
    local suite=$1 root lock
    shift
    set -- "${ROOT_PACKAGES[@]}" "$@"
    mkdir -p "$(cache_dir)/roots"
    root=$(cache_dir)/roots/$suite
    lock=$root.lock
    (
        flock 9
        # `complete` says the base system is; the packages are asked of dpkg.
        if [ -e "$root.complete" ] && root_has "$root" "$@"; then
            exit 0
        fi
        need_root
        apt_install debootstrap debian-archive-keyring
        apt_proxy_env
        if [ ! -e "$root.complete" ]; then
            say "building the Debian $suite root in $root"
            rm -rf --one-file-system "$root"
            debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" "$(debian_mirror)" \
                >"$root.log" 2>&1 || {
                tail -n 20 "$root.log" >&2
                die "debootstrap $suite failed; the whole log is $root.log"
            }
            # No service may start in there, and nothing needs to survive a power cut.
            printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
            chmod +x "$root/usr/sbin/policy-rc.d"
            echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/unsafe-io"
            printf 'path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' \
                >"$root/etc/dpkg/dpkg.cfg.d/small"
            # A mirror may lag behind: its signature is still checked, only its age is not.
            printf '%s;\n' 'Acquire::Retries "3"' 'Acquire::Check-Valid-Until "false"' \
                'APT::Install-Recommends "0"' 'Dpkg::Use-Pty "0"' >"$root/etc/apt/apt.conf.d/90ci"
            touch "$root.complete"
        fi
        cp -L /etc/resolv.conf "$root/etc/resolv.conf"
        {
            in_root "$root" dpkg --configure -a &&
                in_root "$root" apt-get -qq update &&
                in_root "$root" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install "$@" &&
                in_root "$root" apt-get clean
        } >>"$root.log" 2>&1 || {
            tail -n 20 "$root.log" >&2
            die "installing into the Debian $suite root failed; the whole log is $root.log"
        }
    ) 9>"$lock" || return 1
    printf '%s\n' "$root"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    [ $# -ge 1 ] || die "usage: $0 SUITE [PACKAGE...]"
    debian_root "$@"
fi
