# Needs git, make and Python 3.11 on Linux x86-64. Everything else is fetched by `make setup`,
# which `demo` and `test` do by themselves; a second run downloads nothing.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Where it is set, each process compiles all that it imports anew: a worker takes three times as
# long to start, and so does whatever waits for one that was killed.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup demo up doctor test check format lint types unit golden integration parity swaps chaos mutations \
        pressure statistics-cost docs lock clean

UV_VERSION := 0.13.9
UV := $(shell command -v uv || echo .tools/uv)
BIN := .venv/bin
# Seconds after which `make demo` ends by itself, e.g. FOR=60; empty: until Ctrl-C.
FOR ?=
# Of `make chaos`.
SEED ?= 1
MINUTES ?= 5

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(BIN)/.synced  ## Fetch everything: uv, the locked environment (5 GB), Kafka, Triton's models' Python
	@$(BIN)/headrace setup

demo: setup  ## See it work: servers, catalogue, training, live shoppers (FOR=60 ends it)
	@$(BIN)/headrace demo $(if $(FOR),--for $(FOR))

up: setup  ## Run the embedded stack in the foreground
	@$(BIN)/headrace up

doctor: $(BIN)/.synced  ## Say what is missing or wrong, and the next step
	@$(BIN)/headrace doctor

test: check integration  ## Everything that CI runs

check: lint types unit golden  ## Format, lint, types, unit and golden tests: no servers, no network

format: $(BIN)/.synced  ## Rewrite the code in its format
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: $(BIN)/.synced
	$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: $(BIN)/.synced
	$(BIN)/mypy

unit: $(BIN)/.synced  ## Unit tests
	$(BIN)/pytest -q -n 2 tests/unit

golden: $(BIN)/.synced  ## Recorded traffic through the pure pipeline
	$(BIN)/pytest -q tests/golden

integration: setup  ## Tests on real servers: two processes, each with a stack of its own
	$(BIN)/pytest -q -n 2 --dist loadfile --durations=15 tests/integration

parity: setup  ## Compare 10,000 moments of a live run: what training sees with what serving saw
	HEADRACE_TEST_MOMENTS=10000 $(BIN)/pytest -q -s tests/integration/test_training.py -k training_sees

swaps: setup  ## Ten rounds of deploy, canary, promote and rollback under 200 events/s (six minutes)
	@$(BIN)/python -m tests.integration.swaps

chaos: setup  ## Kill everything under 500 events/s for MINUTES (5), faults drawn from SEED (1); account
	@$(BIN)/python -m tests.chaos --seed $(SEED) --minutes $(MINUTES)

mutations: setup  ## Break each rule of the guarantee on purpose, and see what notices (ten minutes)
	@$(BIN)/python -m tests.chaos.mutations

pressure: setup  ## Two minutes at twice the capacity; one user who sends 30 % (ten minutes)
	@$(BIN)/python -m tests.chaos.pressure

statistics-cost: setup  ## What item statistics add to an event's CPU time (half an hour)
	@$(BIN)/python -m tests.integration.statistics_cost $(if $(GA360),--ga360 $(GA360))

docs: $(BIN)/.synced  ## Make docs/asyncapi.yaml and docs/settings.md anew from the code
	$(BIN)/python -m services.docs.asyncapi > docs/asyncapi.yaml
	$(BIN)/python -m services.docs.settings_page > docs/settings.md

lock: $(UV)  ## Resolve the dependencies afresh after a change of pyproject.toml
	$(UV) lock

clean:  ## Remove the environment (not the cache in ~/.cache/headrace, nor any data)
	rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache

# Newer than the lock means: installed. So a second run asks the network nothing.
$(BIN)/.synced: uv.lock pyproject.toml | $(UV)
	$(UV) sync --frozen
	@touch $@

# Where uv is not installed. Debian has venv in a package of its own, others ship no pip.
.tools/uv:
	@echo "Fetching uv $(UV_VERSION) …"
	@mkdir -p .tools
	@(python3.11 -m venv .tools/venv && .tools/venv/bin/pip install -q uv==$(UV_VERSION) \
	    && ln -sf venv/bin/uv $@) \
	  || (python3.11 -m pip install -q --target .tools/lib uv==$(UV_VERSION) \
	    && ln -sf lib/bin/uv $@) \
	  || (echo "uv cannot be fetched: install python3.11-venv, or uv itself, then try again."; exit 1)
