# `make run` and `make test` need Python >= 3.11 with venv, and nothing else.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: run test e2e lint types fmt bench clean

run: $(VENV)/.run  ## fetch the embedded model, and serve
	$(BIN)/qqmem serve

test: lint types  ## everything that needs no big download
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist worksteal

e2e: $(VENV)/.dev  ## the embedded model, for real
	$(BIN)/qqmem model pull
	$(BIN)/python -m pytest -m e2e --timeout 600

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

fmt: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench  ## the promises of docs/benchmarks.md, measured side by side
	$(BIN)/qqmem model pull
	$(BIN)/python -m benchmarks.engine

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# torch first and by its exact version: pip then takes the build at hand (README, "CPU or CUDA").
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run bridge/pyproject.toml
	$(PIP) --editable '.[dev]' --editable './bridge[ncatbot]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) --editable '.[dev,bench]'
	touch $@
