#!/bin/sh
# Runs a short part of the tests on PostgreSQL 18, or says why it does not. The part touches every kind of SQL: migrations,
# plans, claims, results, the log, resets, verification, rights, sequences and connections.
set -eu
cd "$(dirname "$0")/../.."

if ! said=$(tests/postgres18/install.sh); then
    echo "SKIPPED: what is tested on PostgreSQL 18." >&2
    exit 0
fi
printf '%s\n' "$said"
programs=$(printf '%s\n' "$said" | tail -n 1)
# The first server in PATH is taken: src/sandbox/postgres/binaries.rs.
PATH="$programs:$PATH"
export PATH
exec "${CARGO:-cargo}" test --locked --no-fail-fast --test it -- \
    migrations:: plans:: plan_gate:: claims:: completion:: leases:: inbox:: register rights:: sequences:: two_phase:: \
    events_append:: reset:: verify::command:: rules:: read_only:: connecting:: "$@"
