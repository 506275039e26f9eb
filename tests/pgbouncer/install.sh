#!/bin/sh
# Sees to it that the tests find PgBouncer, with which they look what a pooler in transaction mode does to a daemon that listens.
# One that the system has is taken; else Debian's package is unpacked into target/pgbouncer, and nothing is installed:
# the package would start a service.
#
# Exit code: 0 it is there, 1 it is not, with the reason on standard error. Without it those tests are skipped.
set -eu
cd "$(dirname "$0")/../.."

place=target/pgbouncer
for program in "$place/usr/sbin/pgbouncer" /usr/sbin/pgbouncer /usr/bin/pgbouncer; do
    if [ -x "$program" ] && [ "${1-}" != --unpack ]; then
        echo "PgBouncer: $program"
        exit 0
    fi
done

refuse() {
    printf 'PgBouncer is not there: %s\n' "$1" >&2
    exit 1
}

command -v apt-get >/dev/null 2>&1 || refuse "there is no apt-get to fetch Debian's package with; install pgbouncer"
echo "Unpacking: Debian's package pgbouncer and two libraries, into $place"
rm -rf "$place"
mkdir -p "$place"
(
    cd "$place"
    # The lists of packages may be missing where nothing was ever installed.
    packages="pgbouncer $(apt-cache depends pgbouncer 2>/dev/null | sed -n 's/^ *Depends: \(libevent[^ ]*\|libc-ares[^ ]*\)$/\1/p')"
    # shellcheck disable=SC2086 # several names
    apt-get -q download $packages >download.log 2>&1
    for package in *.deb; do
        dpkg -x "$package" .
        rm "$package"
    done
) || refuse "apt-get could not download it (apt-get update, perhaps); $(tail -n 1 "$place/download.log" 2>/dev/null)"
[ -x "$place/usr/sbin/pgbouncer" ] || refuse "the package has no program"
echo "PgBouncer: $place/usr/sbin/pgbouncer"
