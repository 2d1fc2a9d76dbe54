# Every command makes what it needs: .venv if it is not there, and the packages of its extra whenever
# setup.cfg is newer than the last installation. All that has to be there is Python >= 3.8 with venv.
# The tests of connectors use the brokers that they find on this machine, and skip the others with their reason.
#
#   make test                      the whole test suite, with branch coverage of the core
#   make test --jobs=2             the same in half the time: tests of connectors wait for brokers more than they work
#   make test ARGS="-k batcher"    some of it, any arguments of pytest, without coverage
#   make brokers                   fetches the brokers that the tests can start (needs Maven, Java, npm)
#   make demo                      imports a month of flight records into SQLite
#   make help                      the other commands

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
COMMA := ,
EXTRAS = test-demo-all-brokers-integrations
# Where the tests look for brokers; each comes with the version in its file.
BROKERS = build/brokers
JARS = kafka-3.9 kafka-4.1 elasticmq
MINISTACK = 1.5.33
STATSD = 0.9.0
MAVEN_COPY = mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies
# Tests that coverage itself makes hang: it holds a lock of its own when a busy process forks, and CPython 3.11 spins
# when a traced thread runs while an exception waits in a parked one. They run without it.
UNTRACED = fork_under_load or thread_that_dies or threads_that_die
HALVES = test-connectors test-others
# Seeds of the longer stress run.
SEEDS ?= 2000

.DEFAULT_GOAL := help
# A venv or an installation that failed half way does not count as made.
.DELETE_ON_ERROR:
.PHONY: help test $(HALVES) brokers coverage demo stress bench bench-compare lint types docs clean

help:
	@echo "make test          run the tests (ARGS=... for pytest), coverage of the core at the end"
	@echo "make brokers       fetch brokers for the tests of connectors into $(BROKERS)"
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

ifdef ARGS
test: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/python -m pytest -rfEsR $(ARGS)
else
# Both halves are run also when the first one fails.
test: $(VENV)/.installed-$(EXTRAS)
	$(MAKE) --no-print-directory --keep-going $(HALVES)
	$(BIN)/python -m pytest -rfEsR -k "$(UNTRACED)" tests/contract
	$(BIN)/python -m coverage combine --quiet $(HALVES:%=.coverage.%)
	$(BIN)/python -m coverage report
endif

test-connectors:
	COVERAGE_FILE=.coverage.$@ $(BIN)/python -m coverage run -m pytest -rfEsR tests/connectors

test-others:
	COVERAGE_FILE=.coverage.$@ $(BIN)/python -m coverage run -m pytest -rfEsR --ignore=tests/connectors -k "not ($(UNTRACED))"

# What cannot be fetched is said and left out: its tests are skipped, unless BROADWAY_REQUIRE_BROKERS=1.
brokers: $(JARS:%=$(BROKERS)/%/.fetched) $(BROKERS)/ministack/.installed-$(MINISTACK) $(BROKERS)/statsd/.installed-$(STATSD)

$(BROKERS)/%/.fetched: tests/brokers/jars/%.xml
	@if ! command -v mvn >/dev/null; then \
	  echo "$*: not fetched, that needs mvn (Maven)"; \
	elif $(MAVEN_COPY) -f $< -DincludeScope=runtime -DoutputDirectory=$(abspath $(@D)).new; then \
	  rm -rf $(@D) && mv $(@D).new $(@D) && touch $@ && echo "$*: fetched into $(@D)"; \
	else \
	  rm -rf $(@D).new; echo "$*: could not be fetched"; \
	fi

# In an environment of its own: it pins the version of what boto3 is made of.
$(BROKERS)/ministack/.installed-$(MINISTACK):
	@if $(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --quiet "ministack==$(MINISTACK)" && touch $@; then \
	  echo "ministack: installed into $(@D)"; \
	else \
	  echo "ministack: could not be installed"; \
	fi

$(BROKERS)/statsd/.installed-$(STATSD):
	@if ! command -v npm >/dev/null; then \
	  echo "statsd: not installed, that needs npm"; \
	elif npm install --silent --no-audit --no-fund --ignore-scripts --prefix $(@D) statsd@$(STATSD) >/dev/null && touch $@; then \
	  echo "statsd: installed into $(@D)"; \
	else \
	  echo "statsd: could not be installed"; \
	fi

coverage: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/python -m coverage run -m pytest -q -k "not ($(UNTRACED))"
	$(BIN)/python -m coverage html --fail-under=0
	$(BIN)/python -m coverage report
	@echo "by line: htmlcov/index.html"

demo: $(VENV)/.installed-demo
	$(BIN)/python -m examples.flights $(ARGS)

stress: $(VENV)/.installed-$(EXTRAS)
	BROADWAY_STRESS_SEEDS=$(SEEDS) $(BIN)/python -m pytest -rfEsR --timeout=300 tests/test_stress.py $(ARGS)

bench: $(VENV)/.installed-bench-all
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

# Leaves .venv and .tox (remove them by hand), the figures of the benchmark in build/bench, and $(BROKERS).
clean:
	rm -rf build/lib build/bdist.* dist *.egg-info docs/_build htmlcov .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./.venv*" -not -path "./.tox/*" -prune -exec rm -rf {} +
