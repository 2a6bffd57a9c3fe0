# What a person does with this folder. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-gpu lint types docs bench clean constraints

BIN := $(CURDIR)/.venv/bin
# The console programs of the environment are found by name; nothing from another environment leaks in.
export PATH := $(BIN):$(PATH)
unexport PYTHONPATH PYTHONHOME

help:  ## list the targets
	@grep -E '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup:  ## make .venv with all pinned packages; Quantum ESPRESSO and graphviz where missing
	@scripts/setup.sh

# The demo lives in a folder of its own: no profile that the user has is read or changed.
demo: export AIIDA_PATH := $(CURDIR)/.aiida-demo
demo: setup  ## run the silicon campaign with real codes
	@aiida-alpot setup --path $(AIIDA_PATH)
	@aiida-alpot launch examples/silicon/campaign.yaml

test: setup  ## run the tests
	@pytest

test-gpu: setup  ## compare a GPU with the CPU, and measure a committee on it (data: DATA=file.extxyz)
	@pytest -rs tests/gpu
	@python benchmarks/training.py $(if $(DATA),--data $(DATA))

lint: setup  ## check format and lint
	@ruff format --check
	@ruff check

types: setup  ## check types
	@mypy

docs: setup  ## build the documentation into docs/_build/html
	@sphinx-build --fail-on-warning --keep-going -b html docs docs/_build/html

bench: setup  ## run every benchmark in its quick form
	@set -e; for benchmark in benchmarks/*.py; do python "$$benchmark" --quick; done

bench-%: setup  ## run benchmarks/%.py in its quick form
	@python benchmarks/$*.py --quick

constraints: setup  ## resolve constraints.txt anew (needs uv)
	@scripts/constraints.sh

clean:  ## remove what the targets made, the environment and the demo's data base included
	@rm -rf .venv .aiida-demo docs/_build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
