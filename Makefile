# `make` prints what there is. Everything works from a fresh clone with Python 3.11 to 3.13, make and git (and Go, where
# the Pulumi site cannot be reached).
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ekiben
UV := $(or $(shell command -v uv 2>/dev/null),$(CACHE)/uv/bin/uv)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
PROVIDER ?= local
# Asked before anything is made with it, and no more once the virtual environment is there.
SUPPORTED = $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
  echo "Python 3.11 to 3.13 is needed, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there)." \
  "Choose one with: make setup PYTHON=python3.12" >&2; exit 3; }

.DELETE_ON_ERROR:
.PHONY: help setup demo clean-demo test conformance lint format lock bench-aws bench-serving bench-station crash fuzz soak docs clean

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: .venv/.locked ## A virtual environment with the locked dependencies, and the Pulumi CLI
	@$(BIN)/python -m ekiben.engine

.venv/.locked: requirements.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || { $(SUPPORTED); echo "Creating .venv"; \
	  $(UV) venv -q --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv; }
	@echo "Installing the locked dependencies"
	@$(UV) pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(CACHE)/uv/bin/uv:
	@$(SUPPORTED)
	@echo "Installing uv"
	@$(PYTHON) -m pip install -q --disable-pip-version-check --root-user-action ignore --upgrade --target $(CACHE)/uv uv \
	  || { echo "uv is needed, and pip could not install it: have pip, or uv itself, on this machine." >&2; exit 3; }

demo: setup ## The main job: the whole loop on real data, on this machine; PROVIDER=aws or kubernetes: on one that is emulated here
	@$(BIN)/python infra/demo.py $(PROVIDER)

clean-demo: setup ## Destroy what the demo made, and prove that nothing is left (PROVIDER as for the demo)
	@$(BIN)/python infra/demo.py $(PROVIDER) --clean

# What the example's own tests say, they say in the project that `ekiben new` writes and tests (tests/new/test_project.py).
EXAMPLE := $(foreach each,data functions service train,--ignore tests/example/test_$(each).py)
# The first builds of the Pulumi CLI and of a cluster take minutes, the environments of the SageMaker SDK and of MLflow one each: they
# run beside the tests that do not need them; those that do wait.
test: .venv/.locked ## Lint, and all tests, those of the contract on each provider that runs on this machine
	@mkdir -p .build; { $(BIN)/python -m ekiben.engine; $(BIN)/python -m ekiben.emulators.kubernetes; } >.build/builds.log 2>&1 & \
	  { $(BIN)/python -m tests.sdk; $(BIN)/python -m tests.mlflow_server; } >.build/environments.log 2>&1 & \
	  trap 'kill %1 %2 2>/dev/null || :' EXIT; \
	  $(MAKE) --no-print-directory lint; EKIBEN_RIGS=$${EKIBEN_RIGS:-local,aws} $(BIN)/python -m pytest -n 2 --reruns 2 $(EXAMPLE)

# What the contract does not ask for, and is as long.
WITH_kubernetes := tests/kubernetes/test_cluster_xgboost.py
conformance: setup ## The contract's tests by themselves, on one PROVIDER: local, aws or kubernetes
	@EKIBEN_RIGS=$(PROVIDER) $(BIN)/python -m pytest tests/conformance $(WITH_$(PROVIDER)) -n 0 --reruns 2

lint: .venv/.locked ## ruff, mypy --strict and the import contracts
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --no-cache --check .
	@$(BIN)/mypy --cache-dir $(CACHE)/mypy providers functions infra
	@$(BIN)/lint-imports --no-cache

format: .venv/.locked ## Format the code
	@$(BIN)/ruff check --no-cache --fix -q . ; $(BIN)/ruff format --no-cache .

lock: | $(UV) ## Renew the lock file
	@$(UV) pip compile pyproject.toml -q --upgrade --universal --python-version 3.11 --extra local --extra serve --extra train-cpu \
	  --extra sql --extra lineage --extra validate --extra report --extra telemetry --extra emulate --extra kubernetes --group dev --group bench --generate-hashes --no-header -o requirements.lock
	@$(UV) pip compile providers/ekiben/packing/image.in -q --universal --python-version 3.11 -c requirements.lock \
	  --generate-hashes --no-header --no-annotate -o providers/ekiben/packing/image.lock
	@$(UV) pip compile tests/sdk/requirements.in -q --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  -o tests/sdk/requirements.txt
	@$(UV) pip compile tests/mlflow_server/requirements.in -q --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	  -o tests/mlflow_server/requirements.txt

bench-serving: setup ## Ekiben's server beside others (10 minutes, needs wrk); writes docs/benchmarks.md
	@$(BIN)/python -m benchmarks.serving

bench-station: setup ## From zero, through the gateway, idle (10 minutes, needs h2load)
	@$(BIN)/python -m benchmarks.scale_from_zero
	@$(BIN)/python -m benchmarks.station_load

bench-aws: setup ## What our components cost on top of plain pulumi-aws, offline (some 10 minutes, goes on where it was); writes docs/benchmarks.md
	@$(BIN)/python -m benchmarks.aws_offline

crash: setup ## kill -9 at 100 points of the whole loop, and at 20 of an up on an emulated AWS
	@$(BIN)/python -m tests.crash --points 100
	@$(BIN)/python -m tests.crash --points 20 --provider aws

# atheris has wheels for Linux alone, and is no part of the lock.
fuzz: .venv/.locked | $(UV) ## Inputs that nobody sends, five minutes for each thing that reads what others send
	@$(UV) pip install -q --python $(BIN)/python --target .build/atheris --only-binary :all: "atheris>=3,<4" \
	  || echo "atheris is not to be had: inputs are led by the answers." >&2
	@PYTHONPATH=.build/atheris $(BIN)/python -m tests.fuzz

soak: setup ## The example under mixed load for half an hour
	@$(BIN)/python -m benchmarks.soak

docs: .venv/.locked ## Write the generated parts of the docs
	@$(BIN)/python docs/generate.py

clean: ## Remove what make made in this folder (not what a stack holds)
	@rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
