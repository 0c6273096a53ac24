# Two commands: `make study` compares certifiers on the zoo, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
PINS := pyproject.toml constraints.txt

.PHONY: study test clean

study: $(VENV)/.installed-core
	$(BIN)/verifkit bench benchmarks/suites/quick.toml --out results/quick

test: $(VENV)/.installed-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 2

clean:
	rm -rf $(VENV) results

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "verifkit needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# The stamps depend on the pins: a changed pin installs again.
$(VENV)/.installed-core: $(PINS) | $(VENV)/bin/python
	@echo "installing verifkit into $(VENV)"
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-all: $(PINS) | $(VENV)/bin/python
	@echo "installing verifkit with every extra into $(VENV) (torch takes a while)"
	$(INSTALL) --editable '.[all]'
	touch $@ $(VENV)/.installed-core
