PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
JOBS ?= 2
OTHER := build/compatibility

.DEFAULT_GOAL := help
.PHONY: help quickstart check test test-quick test-services test-thorough compatibility python

help: ## Show what can be made
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '%-18s %s\n' "$$name" "$$text"; done

quickstart: $(READY) ## Set up, then run a small search from beginning to end
	$(BIN)/archlab search quickstart --workers auto

check: $(READY) ## Look for mistakes without running: style, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types/archlab && ln -s "$(CURDIR)"/archlab/* "$(CURDIR)/components" build/types/archlab/
	cd build/types && "$(CURDIR)/$(BIN)/mypy" --config-file "$(CURDIR)/pyproject.toml"
	$(BIN)/lint-imports --no-logo

# One thread a job: two jobs' pools on two cores wait for one another. A job that has run out of tests takes another's.
PYTEST = OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test: $(READY) ## Run every test but those of test-services, JOBS=2 at a time
	$(PYTEST) -m "not services"

test-quick: $(READY) ## Run the tests that take less than a tenth of a second each
	$(PYTEST) -m "not slow and not services"

test-services: $(READY) ## Run the tests that start servers, browsers, examples or several processes, or compile whole models to libraries
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m services

test-thorough: $(READY) ## Run every test with more random examples and more sizes; half an hour
	ARCHLAB_TEST_THOROUGH=1 $(PYTEST)

# In a throw-away environment. Without the pins of torch, of triton, which each torch wants in one version, and of
# setuptools, whose newest versions some torch refuses (2.12.0 wants setuptools<82).
compatibility: | python ## Run every test with another torch, by hand: make compatibility VERSION=2.12.0
	@test -n "$(VERSION)" || { echo "Which torch? Try: make compatibility VERSION=2.12.0" >&2; exit 1; }
	rm -rf $(OTHER) && $(PYTHON) -m venv $(OTHER)
	grep -vE '^(torch|triton|setuptools)==' constraints.txt > $(OTHER)/constraints.txt
	$(OTHER)/bin/python -m pip install --quiet -c $(OTHER)/constraints.txt "torch==$(VERSION)" -e ".[dev]"
	OMP_WAIT_POLICY=passive $(OTHER)/bin/python -m pytest -n $(JOBS)
	rm -rf $(OTHER)

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "archlab needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11" >&2; \
		exit 1; }

# pip compiles what it copies, but not what it finds here: where Python may write no bytecode, each process would again.
$(READY): pyproject.toml constraints.txt | python
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/python -m compileall -q archlab components
	@touch $@
