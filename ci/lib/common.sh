# shellcheck shell=bash
# Shared by every script under ci/: where things are, how packages are installed, how steps are
# reported. To be sourced, not run.

set -euo pipefail

# The checkout this script belongs to.
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Where rustup puts cargo, for shells that did not read its profile.
export PATH=${HOME:=/root}/.cargo/bin:$PATH

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

# The oldest compiler that builds this, from Cargo.toml.
rust_needed() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml" | head -n 1; }

rust_is_new_enough() {
    local have
    have=$(cd "$REPO" && rustc --version 2>/dev/null | awk '{ print $2 }') || return 1
    [ -n "$have" ] && cargo --version >/dev/null 2>&1 &&
        [ "$(printf '%s\n' "$(rust_needed)" "$have" | sort -V | head -n 1)" = "$(rust_needed)" ]
}

# apt_offers PACKAGE [VERSION]: whether apt can install it, at least in that version.
apt_offers() {
    local candidate
    candidate=$(apt-cache policy "$1" 2>/dev/null | awk '/Candidate:/ { print $2 }')
    [ -n "$candidate" ] && [ "$candidate" != "(none)" ] && dpkg --compare-versions "$candidate" ge "${2:-0}"
}

# A C compiler for aws-lc, and Rust: what is here, else Debian's own, else rustup from Debian.
ensure_rust() {
    apt_install gcc g++ libc6-dev make cmake ca-certificates
    if ! rust_is_new_enough; then
        [ -n "$apt_updated" ] || { apt-get -qq update >&2 && apt_updated=1; }
        if apt_offers rustc "$(rust_needed)"; then
            apt_install rustc cargo rust-clippy rustfmt
        elif command -v rustup >/dev/null || apt_offers rustup; then
            command -v rustup >/dev/null || apt_install rustup
            rustup toolchain install stable --profile minimal --component clippy,rustfmt >&2
            rustup default stable >&2
        fi
        rust_is_new_enough ||
            die "Rust $(rust_needed) or newer is needed, and this Debian has neither it nor rustup: install Rust with rustup and run this again"
    fi
}

# ensure_cross ARCHITECTURE: what builds for another processor, by Debian's name for it. Sets $TARGET and
# $TOOLS: Rust's name, and the prefix of the other programs.
ensure_cross() {
    case $1 in
        arm64) TARGET=aarch64-unknown-linux-gnu TOOLS=aarch64-linux-gnu- ;;
        *) die "nobody has built this for $1 from another processor" ;;
    esac
    apt_install "gcc-${TOOLS%-}" "libc6-dev-$1-cross"
    if ! [ -d "$(cd "$REPO" && rustc --print target-libdir --target "$TARGET")" ]; then
        command -v rustup >/dev/null ||
            die "this Rust has no library for $TARGET and no rustup to fetch it: install Rust with rustup"
        (cd "$REPO" && rustup target add "$TARGET") >&2 || die "rustup cannot fetch the library for $TARGET"
    fi
    # Cargo does not find it by itself; the crates that compile C do.
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=${TOOLS}gcc
}

# build_programs PROFILE PROGRAM...: builds programs of this workspace into $BUILT, and `testlab`, which
# makes certificates, and two machines with a wire between them. For tests, one of these is among the
# targets: cargo then chooses features as `cargo test --workspace` does, and nothing is compiled twice.
build_programs() {
    local profile=$1 name targets=()
    shift
    for name in "$@" testlab; do targets+=(--bin "$name"); done
    if [ "$profile" = dev ]; then
        targets+=(--workspace --test netns)
    else
        targets+=(--profile "$profile" -p ovpn-client -p ovpn-test-support --features ovpn-test-support/testlab)
    fi
    (cd "$REPO" && cargo build --locked "${targets[@]}") || die "cargo build failed"
    BUILT=${CARGO_TARGET_DIR:-$REPO/target}/${profile/dev/debug}
}

testlab() { "$BUILT/testlab" "$@"; }

# cargo_tool NAME: a tool from crates.io, built once and kept in the cache; prints its directory.
cargo_tool() {
    local root
    root=$(cache_dir)/tools
    if [ ! -x "$root/bin/$1" ]; then
        say "building $1 (once)"
        # A directory of its own: another step may be building another tool.
        CARGO_TARGET_DIR=$root/target-$1 cargo install --quiet --locked --debug --root "$root" "$1" >&2 ||
            die "cargo install $1 failed"
        rm -rf "$root/target-$1"
    fi
    printf '%s/bin\n' "$root"
}
