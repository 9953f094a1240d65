# Every target sets up what it needs: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV   := .venv
JOBS   ?= 3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
AUDIT  := .venv-audit

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow lint check docs docs-serve audit format bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Asparagus needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "setting up $(VENV): some 2 GB, a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## make data, pretrain, finetune twice, show runs and lineage (in ./demo; under 4 minutes on 2 cores)
	ASPARAGUS_HOME="$${ASPARAGUS_HOME:-$(CURDIR)/demo}" $(BIN)/asp demo

test: test-fast  ## all tests but the long proofs
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "(ray or e2e or gpu) and not slow"

test-fast: $(STAMP)  ## the tests that start neither Ray nor a whole command
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal -m "not ray and not e2e and not gpu and not slow"

test-slow: $(STAMP)  ## the long proofs: kill storms, many runs
	$(BIN)/python -m pytest -m slow

lint: $(STAMP) docs  ## format, lint, types, layers, security, scripts, spelling, the docs and their links
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive asparagus
	$(BIN)/shellcheck launch/up/slurm.sbatch tests/slurm/* .ci/run
	$(BIN)/codespell asparagus tests configs launch benchmarks examples README.md CONTRIBUTING.md CHANGELOG.md DECISIONS.md docs

check: lint test-fast  ## all of lint, and the fast tests

docs: $(STAMP)  ## the docs as a site, in site/; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(STAMP)  ## ... on http://127.0.0.1:8000, anew with each change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

audit:  ## look the tested versions up among known vulnerabilities (asks the network)
	test -x $(AUDIT)/bin/pip-audit || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

format: $(STAMP)  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## what it costs, beside the stock ways, with the goals (an hour or two; ONLY=launch,data)
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

clean:  ## remove the environment and what tools left
	rm -rf $(VENV) $(AUDIT) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist site
