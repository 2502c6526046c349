# `make app` and `make test` set everything up the first time; later runs start in seconds.
# Another interpreter: make app PYTHON=python3.12

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := workbench analyses pages tests
# Tests of one file stay in one process, so that a model is loaded once; each process computes on
# one thread (tests/conftest.py), so processes do not fight over cores. Files keep their order: by
# their number of tests the slowest, which drive a browser one after another, would come last.
TEST_OPTIONS ?= -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help app test fuzz lint bench

help:
	@echo "make app    install what is missing and open the workbench in the browser"
	@echo "make test   install what is missing and run the tests"
	@echo "make fuzz   bad input of every kind: 20 times as much as in the tests, drawn anew"
	@echo "make lint   ruff and pyright"
	@echo "make bench  benchmarks: ratios against plain implementations"
	@echo "make load   eight browsers at once for five minutes, and kills at random moments; Chromium"

app: $(STAMP)
	$(BIN)/streamlit run workbench/app.py

test: $(STAMP)
	$(BIN)/python -m pytest $(TEST_OPTIONS)

fuzz: $(STAMP)
	WORKBENCH_FUZZ=20 $(BIN)/python -m pytest tests/fuzz $(TEST_OPTIONS)

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/pyright

bench: $(STAMP)
	$(BIN)/python -m pytest -m benchmark -s

load: $(STAMP)
	$(BIN)/python -m tests.load.sessions --browsers 8 --minutes 5
	$(BIN)/python -m tests.load.kills --rounds 5

# The stamp goes first and comes back last: an installation that failed leaves none.
$(STAMP): requirements.txt constraints.txt pyproject.toml
	@rm -f $@
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "The workbench needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV) || { \
	    echo "$(PYTHON) could not make $(VENV); on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    exit 1; }; \
	fi
	@echo "Installing into $(VENV): once, some minutes."
	$(BIN)/python -m pip install -r requirements.txt -c constraints.txt
	@touch $@
