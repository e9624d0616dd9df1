# shellcheck shell=bash
# Shared by every script under ci/: where things are, how packages are installed, how steps are
# reported. To be sourced, not run.

set -euo pipefail

# The checkout this script belongs to.
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Where downloads and built roots are kept between runs. Worktrees of one clone share a cache.
cache_dir() {
    local dir common
    if [ -n "${OVPN_CACHE:-}" ]; then
        dir=$OVPN_CACHE
    else
        dir=$REPO
        if common=$(git -C "$REPO" rev-parse --path-format=absolute --git-common-dir 2>/dev/null); then
            case $common in
                */.git) dir=${common%/.git} ;;
            esac
        fi
        dir=$dir/.cache
    fi
    mkdir -p "$dir"
    (cd "$dir" && pwd)
}

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$(basename "$0"): $*"
    exit 1
}

need_root() {
    [ "$(id -u)" = 0 ] || die "must run as root: it creates network namespaces and TUN devices, and installs packages"
}

# Network namespaces and a TUN device, or a clear failure.
need_netns() {
    need_root
    [ -c /dev/net/tun ] || die "/dev/net/tun is missing: load the module with 'modprobe tun', or give this container the device"
    unshare --net true 2>/dev/null || die "cannot create a network namespace: CAP_SYS_ADMIN is missing"
}

apt_updated=
# apt_install PACKAGE...: installs what is not installed yet; refreshes the package lists at most
# once in the life of the calling script.
apt_install() {
    local pkg missing=()
    for pkg in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$pkg" 2>/dev/null || true)" = installed ] ||
            missing+=("$pkg")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    need_root
    say "installing: ${missing[*]}"
    # Two scripts may want packages at the same time; apt's own lock would make one fail.
    (
        flock 9
        if [ -z "$apt_updated" ]; then
            apt-get -qq -o Acquire::Retries=3 update >&2
        fi
        DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
            install --no-install-recommends "${missing[@]}" >&2
    ) 9>/run/lock/ovpn-ci-apt.lock || die "apt could not install: ${missing[*]}"
    apt_updated=1
}
