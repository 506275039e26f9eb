#!/usr/bin/env bash
# Proves that 0001_initial.sql makes the schema that the seven files of the development versions made: applies both to an
# empty database each, and compares what pg_dump says, without comments.
# Comments are compared by nothing: the new file explains more, in other words. The data compared are the rows that the
# files insert; schema_version is the one that must differ.
set -euo pipefail
cd "$(dirname "$0")"

old=58e441b # the last commit with the seven files
bin=$(pg_config --bindir 2>/dev/null || ls -d /usr/lib/postgresql/*/bin | tail -1)
folder=$(mktemp -d)
# PostgreSQL refuses to run as root.
run() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    chown nobody "$folder"
    run() { runuser -u nobody -- "$@"; }
fi
stop() { run "$bin/pg_ctl" -D "$folder/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$folder"; }
trap stop EXIT

run "$bin/initdb" -D "$folder/data" -U copyhold -A trust -E UTF8 --locale=C >/dev/null
run "$bin/pg_ctl" -D "$folder/data" -w -l "$folder/log" -o "-k $folder -c listen_addresses='' -c fsync=off" start >/dev/null

apply() { # database; the files on stdin
    run "$bin/createdb" -h "$folder" -U copyhold "$1"
    { echo 'CREATE SCHEMA copyhold;'; sed -e 's/{schema}/"copyhold"/g' -e 's/{channel}/copyhold/g'; } |
        run "$bin/psql" -h "$folder" -U copyhold -d "$1" -q -v ON_ERROR_STOP=1 -f - >/dev/null
}

# Line comments go, and with them what stands before them to align them; lines that are then empty, too.
dump() { # database
    run "$bin/pg_dump" -h "$folder" -U copyhold -d "$1" --no-comments --exclude-table-data='copyhold.schema_version' --inserts |
        sed -e 's/ *--.*$//' -e '/^[[:space:]]*$/d' -e '/^\\\(un\)\?restrict /d'
}

git ls-tree --name-only "$old" . | grep '\.sql$' | while read -r file; do git show "$old:./$file"; done | apply old
apply new <0001_initial.sql
dump old >"$folder/old"
dump new >"$folder/new"
diff "$folder/old" "$folder/new"
echo "identical: $(wc -l <"$folder/new") lines, $(run "$bin/pg_dump" --version)"
