# Each command does all of its set-up in .venv, once: `make demo`, `make test`, `make long`, `make docs`, `make lint`.

PYTHON ?= python3
BIN := .venv/bin
# A worker to a core. Each keeps to its part of the tests until the others have nothing left.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test long bounds fuzz docs lint clean

demo: .venv/installed
	$(BIN)/shrinkstats demo

test: .venv/installed
	$(PYTEST) -m "not long"

long: .venv/installed
	$(PYTEST) -m long

bounds: .venv/installed
	$(BIN)/python tests/bounds.py

# Other cases in every run, or those of a seed: make fuzz SEED=7
fuzz: .venv/installed
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=long $(if $(SEED),--hypothesis-seed=$(SEED))

docs: .venv/installed-docs
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

lint: .venv/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types
	cp -R shrinkstats build/types && cp -R adapters theory build/types/shrinkstats  # as they are installed
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p shrinkstats

clean:
	rm -rf .venv build docs/_build docs/api/generated demo-results

# The stamps are written last: an interrupted installation starts over.
.venv/created:
	$(PYTHON) -m venv .venv
	touch $@

# PyTorch by itself and first: the pinned version is settled before anything else can ask for another.
.venv/installed: .venv/created pyproject.toml constraints.txt
	$(INSTALL) torch
	$(INSTALL) -e ".[demo,test]"
	touch $@

.venv/installed-docs: .venv/installed
	$(INSTALL) -e ".[docs]"
	touch $@

.venv/installed-lint: .venv/created pyproject.toml constraints.txt
	$(INSTALL) ruff mypy numpy
	touch $@
