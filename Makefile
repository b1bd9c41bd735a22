# `make demo` is the whole job on data that it makes; `make help` lists the rest.
# Each target first makes .venv if it is missing, moved, or older than the files it is made from.
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

demo: $(STAMP) ## the whole job in miniature, from phantoms to a verdict and a report
	$(BIN)/medopt demo $(ARGS)

test: $(STAMP) ## the quick tests, which take minutes
	$(BIN)/python -m pytest -n logical --dist loadgroup $(ARGS)

test-all: $(STAMP) ## all tests, including the slow, GPU and cluster ones
	$(BIN)/python -m pytest -n logical --dist loadgroup -m "not cluster" $(ARGS)
	$(BIN)/python -m pytest -m cluster $(ARGS)

# In parts: `make soak ARGS='--minutes 30'` resumes where the log ends.
soak: $(STAMP) ## random faults on a cluster of three hosts, ten of each kind, with a log
	$(BIN)/python -m tests.bench.execution.hosts.soak --seed 20261127 --log soak.jsonl $(ARGS)

check: $(STAMP) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# `-o addopts=` takes back the --benchmark-skip of pyproject.toml.
bench: $(STAMP) ## speed ratios, compared with the kept ones; seconds of each run are in .benchmarks
	$(BIN)/python -m pytest tests/perf -o addopts=--import-mode=importlib --benchmark-only \
	  --benchmark-autosave --benchmark-compare $(ARGS)
	$(BIN)/python -m tests.perf.ratios

# ARGS='--device cpu --quick' runs the same code without a GPU.
gpu-check: $(STAMP) ## measure this machine's GPU in six minutes, into gpu_check.json
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
