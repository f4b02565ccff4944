# What can be made. `make` alone lists it. Needs Rust (rustup.rs), bash and Python 3; the rest is installed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Binaries of the lab and tools of the checks are kept outside the tree, so that a fresh clone finds them again.
export FAILOVERD_LAB_CACHE ?= $(HOME)/.cache/failoverd-lab
# How many days `make simulate` plays.
SEEDS ?= 1000
# How many times `make soak` plays every scenario.
RUNS ?= 10
DENY := $(FAILOVERD_LAB_CACHE)/tools/bin/cargo-deny

.PHONY: help build demo demo-negative demo-failback test simulate soak bench check fmt clippy doc deny clean

# $(call beside_lab,COMMAND) runs COMMAND while the lab's parts are installed: the API server takes minutes of one core
# to build, cargo takes minutes of the other.
beside_lab = tests/lab/install.sh & lab=$$!; \
	trap 'kill $$lab 2>/dev/null || true' INT TERM; \
	$(1) || { kill $$lab 2>/dev/null || true; exit 1; }; \
	wait $$lab

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the optimised binary: target/release/failoverd
	@cargo build --locked --release

# Not optimised, as for the tests: nothing in the demonstration is about speed, and the SDKs take minutes to optimise.
demo: ## two real regions on this machine; one is killed, and failoverd moves everything to the other
	@echo "building failoverd and, side by side, what the two regions run on; the first time takes minutes"
	@$(call beside_lab,cargo build --locked)
	@python3 tests/lab/demo.py --binary "$${CARGO_TARGET_DIR:-target}/debug/failoverd"

demo-negative: ## only failoverd's own network is cut: nothing may be moved
	@echo "building failoverd and, side by side, what the two regions run on; the first time takes minutes"
	@$(call beside_lab,cargo build --locked)
	@python3 tests/lab/demo.py --negative --binary "$${CARGO_TARGET_DIR:-target}/debug/failoverd"

demo-failback: ## after the failover, the way back: the rows that were lost, the old primary as a standby, the clients by stages
	@echo "building failoverd and, side by side, what the two regions run on; the first time takes minutes"
	@$(call beside_lab,cargo build --locked)
	@python3 tests/lab/demo_failback.py $(FAILBACK) --binary "$${CARGO_TARGET_DIR:-target}/debug/failoverd"

test: ## everything, on real components; installs what is missing
	@$(call beside_lab,cargo test --locked --no-run)
	@if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --locked; \
	else \
	  cargo test --locked --lib --bins --tests; \
	fi
	@cargo test --locked --doc --quiet

# Everything that can happen comes up in a thousand days; in a few it need not.
simulate: ## bad days by chance, SEEDS of them, with the shipped configuration; fails where an invariant breaks
	@cargo build --locked --release --quiet
	@"$${CARGO_TARGET_DIR:-target}/release/failoverd" simulate --seeds $(SEEDS) \
	  $$([ $(SEEDS) -lt 1000 ] || echo --complete) --config config/omnimesh.toml

# Almost two minutes for each scenario of each run; as root. Optimised: three unoptimised daemons take what the servers need.
soak: ## three daemons in three regions that are cut off, killed and healed: every scenario RUNS times, with a table
	@$(call beside_lab,cargo build --locked --release)
	@python3 tests/lab/soak.py --runs $(RUNS) $(SOAK) --binary "$${CARGO_TARGET_DIR:-target}/release/failoverd"

bench: ## the figures in the README, measured here; fails where one is worse than twice its goal
	@$(call beside_lab,cargo bench --locked --bench figures --no-run)
	@cargo bench --locked --quiet --bench figures

check: fmt clippy doc deny ## format, lints, documentation, licences: what .ci/run checks besides the tests

fmt:
	@cargo fmt --all --check

clippy:
	@cargo clippy --locked --all-targets --quiet -- -D warnings

doc:
	@RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --quiet

# The advisory database is a git repository on another host: where that cannot be reached, the rest is checked and
# it is said that the advisories were not.
deny: $(DENY)
	@$(DENY) --log-level error --locked check bans licenses sources
	@if timeout 60 $(DENY) --log-level off --locked fetch db >/dev/null 2>&1; then \
	  $(DENY) --log-level error --locked check --disable-fetch advisories; \
	else \
	  echo "advisories NOT CHECKED: the advisory database cannot be reached from here"; \
	fi

# Two minutes, once. Not optimised: it runs for a second.
$(DENY):
	@echo "installing cargo-deny into $(FAILOVERD_LAB_CACHE)/tools"
	@cargo install cargo-deny --locked --debug --quiet --root $(FAILOVERD_LAB_CACHE)/tools \
	  --target-dir $(FAILOVERD_LAB_CACHE)/tools-build
	@rm -rf $(FAILOVERD_LAB_CACHE)/tools-build

clean: ## remove what was built here (not the lab's cache)
	@cargo clean
