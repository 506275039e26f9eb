#!/bin/sh
# Installs moto, the S3 server that the suite of conformance plays on beside our own, into target/moto: a Python
# environment of this checkout alone. Does nothing if it is there as requirements.txt wants it.
#
# Exit code: 0 it is there, 1 it is not, with the reason on standard error. Without it that part of the suite is skipped.
set -eu
cd "$(dirname "$0")/../.."

wanted=tests/moto/requirements.txt
place=target/moto
if cmp -s "$wanted" "$place/installed.txt"; then
    echo "moto: $place"
    exit 0
fi

refuse() {
    printf 'moto is not installed: %s\n' "$1" >&2
    exit 1
}

command -v python3 >/dev/null 2>&1 || refuse "there is no python3 (apt-get install python3-venv)"
echo "Installing: moto and what it needs, from the Python package index, into $place"
# A half-installed one is begun anew.
rm -rf "$place"
python3 -m venv "$place" || refuse "python3 makes no environment (apt-get install python3-venv)"
"$place/bin/pip" install --quiet --disable-pip-version-check --timeout 20 --retries 1 --no-deps -r "$wanted" ||
    refuse "pip could not install it"
cp "$wanted" "$place/installed.txt"
echo "moto: $place"
