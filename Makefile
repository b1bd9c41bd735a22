# `make demo` is the whole job on data that it makes; `make help` lists the rest.
# Each target makes .venv first, when it is missing, older than the files it is made from, or moved.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-all check bench gpu-check soak FORCE

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHONS := $(PYTHON) python3.11 python3.12 python3.13 python3 python
# More arguments for the command behind a target: make test ARGS='-k lanes'
ARGS ?=

# An environment knows its own path, so one that moved with its folder has to be made again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif

help: ## list the targets
	@awk -F ':|## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$3 }' Makefile

demo: $(STAMP) ## the whole job in miniature: phantoms, a study, a verdict and a report
	$(BIN)/medopt demo $(ARGS)

test: $(STAMP) ## the tests that take minutes
	$(BIN)/python -m pytest -n logical --dist loadgroup $(ARGS)

test-all: $(STAMP) ## those, the slow ones, the GPU's and the clusters'
	$(BIN)/python -m pytest -n logical --dist loadgroup -m "not cluster" $(ARGS)
	$(BIN)/python -m pytest -m cluster $(ARGS)

# In slices: `make soak ARGS='--minutes 30'` goes on where the log ends.
soak: $(STAMP) ## faults by chance on a cluster of three hosts, ten of each kind, with a log
	$(BIN)/python -m tests.bench.execution.hosts.soak --seed 20261127 --log soak.jsonl $(ARGS)

check: $(STAMP) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# `-o addopts=` takes back the --benchmark-skip of pyproject.toml.
bench: $(STAMP) ## speed as ratios against what is kept; seconds of each run are in .benchmarks
	$(BIN)/python -m pytest tests/perf -o addopts=--import-mode=importlib --benchmark-only \
	  --benchmark-autosave --benchmark-compare $(ARGS)
	$(BIN)/python -m tests.perf.ratios

# ARGS='--device cpu --quick' runs the same code without a GPU.
gpu-check: $(STAMP) ## figures of this machine's GPU in six minutes: gpu_check.json
	$(BIN)/python tests/gpu/gpu_check.py $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	@usable() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; \
	if [ "$$(cat $(STAMP) 2>/dev/null || echo "$(CURDIR)")" != "$(CURDIR)" ]; then \
	  rm -rf $(VENV); \
	fi; \
	if ! usable $(BIN)/python; then \
	  for python in $(PYTHONS) ''; do \
	    if [ -z "$$python" ] || usable "$$python"; then break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "MedOptBench needs Python 3.11 or newer; tried: $(PYTHONS)." \
	      "Install one or name it: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	  "$$python" -m venv --clear $(VENV); \
	fi; \
	echo "installing into $(VENV): minutes and about 7 GB when it is new" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[tests,check,search]'
	@echo "$(CURDIR)" > $@
