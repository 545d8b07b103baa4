# A bare machine needs Python 3.11 or newer with venv and pip, and make. Everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests run in so many processes, each with one thread for its products: two fill two cores.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
BENCHMARKS := $(patsubst benchmarks/bench_%.py,bench-%,$(wildcard benchmarks/bench_*.py))

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {sub("%", "NAME", $$1); printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medtune needs Python 3.11 or newer; \
	this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 install")'
	$(PYTHON) -m venv $(VENV)

# torch comes first: DeepSpeed's build reads its version. No operator is compiled before it is used.
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing torch (a few minutes on a slow network)"
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools wheel ninja torch
	@echo "Installing medtune's other dependencies"
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation \
		-e ".[deepspeed,optimizers,tensorboard,serve,words,dev]"
	@touch $@

.PHONY: install
install: $(INSTALLED) ## Make .venv and install medtune into it; does nothing when it is up to date

.PHONY: run
run: install ## Train and score the built-in default; ARGS="data=... model=..." changes it
	$(BIN)/python -m medtune $(ARGS)

.PHONY: test
test: install ## Unit, parity and command-line tests on the CPU; what a change must pass
	$(PYTEST)

.PHONY: test-all
test-all: install ## The same with the slow tests
	$(PYTEST) -m "not gpu"

.PHONY: test-parity
test-parity: install ## Only the parity tests against named references
	$(PYTEST) tests/numerics

.PHONY: test-gpu
test-gpu: install ## The tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu -rs tests/gpu

.PHONY: lint
lint: install ## Style, types and file checks; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	SKIP=ruff-check,ruff-format,mypy $(BIN)/pre-commit run --all-files

.PHONY: format
format: install ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: install ## Only the type check
	$(BIN)/mypy

.PHONY: bench $(BENCHMARKS)
bench: $(BENCHMARKS) ## Every benchmark; results go to outputs/bench

bench-%: ## One benchmark, such as bench-cli
$(BENCHMARKS): bench-%: install
	$(BIN)/python -m benchmarks.bench_$*

.PHONY: sample
sample: install ## Write the built-in data set and its tokenizer to data/sample again
	$(BIN)/python -m medtune.data.sample --records 30000 --seed 0 --lengths short --gzip --out data/sample
	$(BIN)/python -m medtune.data.sample.tokenizer --data data/sample --out data/sample/tokenizer

.PHONY: clean
clean: ## Remove caches and build files; keeps .venv, outputs and data
	rm -rf build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find medtune tests benchmarks conf -name __pycache__ -type d -prune -exec rm -rf {} +
