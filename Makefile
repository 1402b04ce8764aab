# Every target does its own set-up, in .venv; what is needed beforehand is python3 (3.11 or newer), pip and make.
#
#   make demo         a tour of what Crelle does
#   make test         the tests, without the slow ones
#   make test-all     all tests, as in CI
#   make bench        benchmarks against the frameworks' own functions
#   make bench-smoke  the same, shortest sizes: does every benchmark still run?
#   make lint         ruff and mypy
#   make format       let ruff rewrite what it can
#   make docs         the documentation, into docs/_build/html
#   make clean        remove .venv and everything that was built
#
# ARGS is handed on:  make test ARGS="tests/test_pages.py -x"     PYTHON chooses an interpreter:  make test PYTHON=python3.12

PYTHON ?= python3
ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev
SETTINGS := pyproject.toml constraints.txt

# pip reads this, and so does the pip that builds the package in an environment of its own.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two processes on two cores: threads on top of that only get in each other's way.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench bench-smoke lint format docs clean

help:
	@sed -n 's/^#  //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Crelle needs Python 3.11 or newer; choose one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# PyTorch first and by its exact version, so that nothing else chooses one (and a CPU build that is at hand is taken).
$(RUN_READY): $(SETTINGS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet "$$(sed -n '/^torch==/p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --editable ".[all]"
	@touch $@

$(DEV_READY): $(RUN_READY)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(RUN_READY)
	$(BIN)/crelle demo $(ARGS)

# By file, since the blocks of a page depend on each other.
test: $(DEV_READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

test-all: $(DEV_READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

bench: $(DEV_READY)
	$(BIN)/python -m benchmarks $(ARGS)

bench-smoke: $(DEV_READY)
	$(BIN)/python -m benchmarks --smoke $(ARGS)

lint: $(DEV_READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DEV_READY)
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -b html docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
