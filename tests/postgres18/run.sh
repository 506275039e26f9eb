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
# The first server in PATH is taken: crates/sandbox/src/postgres/binaries.rs.
PATH="$programs:$PATH"
export PATH
exec "${CARGO:-cargo}" test --locked --workspace --features testing --no-fail-fast --test it -- \
    migrations:: plan_gate:: plans::a_claim plans::objects claims:: completion:: inbox:: registering:: rights:: \
    sequences:: two_phase:: reset:: verify::command:: "$@"
