# Every command makes what it needs: .venv if it is not there, and the packages of its extra whenever
# setup.cfg is newer than the last installation. All that has to be there is Python >= 3.8 with venv.
#
#   make test                      the whole test suite, with branch coverage of the core
#   make test ARGS="-k batcher"    some of it, any arguments of pytest, without coverage
#   make demo                      imports a month of flight records into SQLite
#   make help                      the other commands

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
COMMA := ,
# Tests that coverage itself makes hang: it holds a lock of its own when a busy process forks, and CPython 3.11 spins
# when a traced thread runs while an exception waits in a parked one. They run without it.
UNTRACED = fork_under_load or thread_that_dies or threads_that_die
# Seeds of the longer stress run.
SEEDS ?= 2000

.DEFAULT_GOAL := help
# A venv or an installation that failed half way does not count as made.
.DELETE_ON_ERROR:
.PHONY: help test coverage demo stress bench bench-compare lint types docs clean

help:
	@echo "make test          run the tests (ARGS=... for pytest), coverage of the core at the end"
	@echo "make demo          import a month of flight records into SQLite (ARGS=... for its options)"
	@echo "make stress        run the stress test over SEEDS=$(SEEDS) random pipelines"
	@echo "make bench         measure (ARGS=... for its options)"
	@echo "make bench-compare A=old.json B=new.json    say what changed between two measurements"
	@echo "make lint | types | docs | coverage | clean"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# .installed-test-demo stands for `pip install -e .[test,demo]`; -e: the tree itself is what is imported.
$(VENV)/.installed-%: setup.cfg | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$(subst -,$(COMMA),$*)]"
	@touch $@

test: $(VENV)/.installed-test-demo
ifdef ARGS
	$(BIN)/python -m pytest -rfEs $(ARGS)
else
	$(BIN)/python -m coverage run -m pytest -rfEs -k "not ($(UNTRACED))"
	$(BIN)/python -m pytest -rfEs -k "$(UNTRACED)" tests/contract
	$(BIN)/python -m coverage report
endif

coverage: $(VENV)/.installed-test-demo
	$(BIN)/python -m coverage run -m pytest -q -k "not ($(UNTRACED))"
	$(BIN)/python -m coverage html --fail-under=0
	$(BIN)/python -m coverage report
	@echo "by line: htmlcov/index.html"

demo: $(VENV)/.installed-demo
	$(BIN)/python -m examples.flights $(ARGS)

stress: $(VENV)/.installed-test-demo
	BROADWAY_STRESS_SEEDS=$(SEEDS) $(BIN)/python -m pytest -rfEs --timeout=300 tests/test_stress.py $(ARGS)

bench: $(VENV)/.installed-bench
	$(BIN)/python -m bench $(ARGS)

# Also as `make bench-compare old.json new.json`: make takes the files for goals, and has nothing to do for them.
A ?= $(word 2,$(MAKECMDGOALS))
B ?= $(word 3,$(MAKECMDGOALS))
bench-compare: $(VENV)/.installed-bench
	@test -n "$(A)" -a -n "$(B)" || { echo "usage: make bench-compare A=old.json B=new.json"; exit 2; }
	$(BIN)/python -m bench.compare $(A) $(B)
%.json: ;

lint: $(VENV)/.installed-lint
	$(BIN)/python -m ruff check

types: $(VENV)/.installed-types
	$(BIN)/python -m mypy

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Leaves .venv and .tox (remove them by hand), and the figures of the benchmark in build/bench.
clean:
	rm -rf build/lib build/bdist.* dist *.egg-info docs/_build htmlcov .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./.venv*" -not -path "./.tox/*" -prune -exec rm -rf {} +
