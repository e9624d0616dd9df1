#!/bin/bash
# A Debian package's programs in a directory of their own, where they change nothing of this machine.
#   ci/lib/relocate.sh PACKAGE DIRECTORY
# Scripts only: every absolute path of the package's is written anew to lie under DIRECTORY.

# shellcheck source=ci/lib/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ $# = 2 ] || die "usage: $0 PACKAGE DIRECTORY"
package=$1 directory=$2
archive=$(cache_dir)/packages/$package.deb
mkdir -p "${archive%/*}"
(
    flock 9
    if [ ! -e "$archive" ]; then
        fresh=$(mktemp -d)
        trap 'rm -rf "$fresh"' EXIT
        cd "$fresh"
        { apt-get -qq download "$package" || { apt-get -qq update && apt-get -qq download "$package"; }; } >&2 ||
            die "apt cannot download $package"
        mv ./*.deb "$archive"
    fi
) 9>"$archive.lock"
dpkg-deb -x "$archive" "$directory"
mkdir -p "$directory/etc" "$directory/run"
grep -rlE '/(etc|run|lib|sbin)' "$directory" | xargs sed -i -E \
    "s#(^|[^A-Za-z0-9_.\$}/-])/(etc|run|lib/resolvconf|sbin/resolvconf)#\1$directory/\2#g"
