#!/usr/bin/env bash
# Makes the certificates of the tests: an authority, and what it has issued for 127.0.0.1, localhost and store.internal.
# They are valid from 2020 for a hundred years, but for the one that has expired; nothing else trusts them.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/issued"
: >"$work/index"
echo 01 >"$work/serial"
cat >"$work/ca.cnf" <<CNF
[ca]
default_ca = own
[own]
database = $work/index
serial = $work/serial
new_certs_dir = $work/issued
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost, DNS:store.internal
[other]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:other.internal
CNF
key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }
issue() { # name, section, end, what else
    openssl req -new -key "$work/$1.key" -subj "/CN=Copyhold test $1" -out "$work/$1.csr"
    openssl ca -batch -notext -config "$work/ca.cnf" -extensions "$2" -startdate 20200101000000Z -enddate "$3" \
        -in "$work/$1.csr" -out "$1.pem" "${@:4}" 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
}
for name in ca server; do key "$work/$name.key"; done
for name in other expired; do cp "$work/server.key" "$work/$name.key"; done
issue ca authority 21200101000000Z -selfsign -keyfile "$work/ca.key"
own=(-cert ca.pem -keyfile "$work/ca.key")
issue server server 21200101000000Z "${own[@]}"
issue other other 21200101000000Z "${own[@]}"
issue expired server 20210101000000Z "${own[@]}"
cp "$work/server.key" server.key
