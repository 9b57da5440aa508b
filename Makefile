# Two commands on a fresh machine (Debian, Python 3.11): make quickstart, make test.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint format clean

quickstart: .venv/installed  ## the whole study in the sandbox, into runs/quickstart
	$(BIN)/trimtab study recipes/quickstart.yaml

test: .venv/installed-dev  ## all tests
	$(BIN)/python -m pytest

lint: .venv/installed-dev  ## ruff, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes first: a plain range would fetch a newer one.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build src/*.egg-info
