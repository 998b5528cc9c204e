# What a developer does here. `make` alone says what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Builds stay out of the tree, so that clones share them.
CARGO_TARGET_DIR ?= $(HOME)/.cache/cogward/target
export CARGO_TARGET_DIR

# A Python with what scripts/verify.py needs; scripts/setup-tests.sh makes it.
PYTHON := $(HOME)/.cache/cogward/venvs/tests/bin/python
export COGWARD_TEST_PYTHON := $(PYTHON)
export COGWARD_PYTHON := $(PYTHON)
# A Python with an unmodified MCP client; scripts/setup-tests.sh makes it too.
export COGWARD_MCP_CLIENT_PYTHON := $(HOME)/.cache/cogward/venvs/mcp-client/bin/python

.PHONY: help demo build verifier test setup lint fmt fuzz bench clean-demo own-target

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: own-target ## one governed agent from registration to verified evidence, on one screen (KEEP=1 leaves the plane running)
	@scripts/setup-tests.sh demo
	@echo "demo: building the release binaries (minutes the first time)"
	@cargo build --release --locked --quiet -p cogward-cli -p cogward-ledger
	@$(PYTHON) scripts/demo.py --bin-dir $(CARGO_TARGET_DIR)/release --python $(PYTHON)

build: own-target ## build the release binaries
	cargo build --release --locked -p cogward-cli -p cogward-ledger

verifier: own-target ## build cogward-verify for auditors: one static file, under 5 MB
	cargo rustc --release --locked --quiet -p cogward-ledger --bin cogward-verify -- -C target-feature=+crt-static
	@if readelf -l $(CARGO_TARGET_DIR)/release/cogward-verify | grep -q INTERP; then echo "it is not static" >&2; exit 1; fi
	@size=$$(stat -c %s $(CARGO_TARGET_DIR)/release/cogward-verify); \
	  [ $$size -lt 5000000 ] || { echo "it has $$size bytes" >&2; exit 1; }; \
	  echo "$(CARGO_TARGET_DIR)/release/cogward-verify: static, $$size bytes"

setup: ## install what the tests need (make test does it by itself)
	@scripts/setup-tests.sh tests

test: setup own-target ## install what the tests need and run them all
	cargo build --workspace --bins --locked --quiet
	cargo nextest run --workspace --locked $(if $(CI),--profile ci)
	cargo test --doc --workspace --locked --quiet
	$(PYTHON) scripts/check-guides.py --bin-dir $(CARGO_TARGET_DIR)/debug

lint: own-target ## formatting, layers, tidiness, licences, lints, scripts
	cargo fmt --all --check
	cargo xtask check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	git ls-files '*.sh' .ci/run | xargs -n1 bash -n
	git ls-files '*.py' | xargs python3 -W error -c 'import ast, pathlib, sys; [ast.parse(pathlib.Path(path).read_bytes(), path) for path in sys.argv[1:]]'

fmt: ## format the code
	cargo fmt --all

fuzz: own-target ## hostile bytes against whatever reads what agents send (FUZZ_SECONDS=60 each, FUZZ_SEED=1)
	COGWARD_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),60) COGWARD_FUZZ_SEED=$(or $(FUZZ_SEED),1) \
	  cargo test --release --locked -p cogward-gateway --lib fuzz:: -- --nocapture --test-threads=1

bench: own-target ## what evidence, gate and sandbox cost, as ratios (docs/performance.md)
	cargo bench --locked -p cogward-evidence --bench append
	cargo bench --locked -p cogward-evidence --bench growth
	@scripts/bench-postgres.sh || echo "bench: without PostgreSQL"
	cargo bench --locked -p cogward-gateway --bench calls
	cargo bench --locked -p cogward-policy --bench decide
	cargo bench --locked -p cogward-memory --bench memory
	cargo bench --locked -p cogward-sandbox --bench start

own-target:
	@scripts/own-target.sh

clean-demo: ## remove what demos with KEEP=1 left behind; end their planes first
	@for left in $${TMPDIR:-/tmp}/cogward-demo-*; do \
	  [ -d "$$left" ] || continue; \
	  if flock --nonblock "$$left/data/plane.lock" true 2>/dev/null || [ ! -e "$$left/data/plane.lock" ]; then \
	    rm -rf "$$left" && echo "removed $$left"; \
	  else \
	    echo "$$left: its plane still runs, see plane.json in it; end it first"; \
	  fi; \
	done
