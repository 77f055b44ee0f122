# Needs Python 3.11 or newer (with venv) and make; everything else is installed into .venv from hash-locked files.

PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
FUZZ := .venv-fuzz
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
UV := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --upgrade --system-certs
# Of the tests: many wait for processes of their own, so two for each CPU pay. Each one takes ten seconds to collect them.
PROCESSES ?= $(shell n=$$(nproc 2>/dev/null || echo 4); echo $$((n < 4 ? 2 * n : 8)))
# Passed on to the command of a target, as in: make test ARGS="-k valkey -x"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test unit deep check fix bench measure settings soak fuzz lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime  ## embed real text on this machine: server, worker and client, nothing to configure
	$(BIN)/embedmill demo $(ARGS)

test: $(VENV)/.dev  ## the whole test suite, but for what `deep` and `soak` do
	$(BIN)/python -m pytest -m "not soak and not deep" -n $(PROCESSES) --dist worksteal $(ARGS)

unit: $(VENV)/.dev  ## the tests of pure modules: no server, no model, half a minute
	$(BIN)/python -m pytest tests/unit -m "not soak and not deep" -n 2 --dist worksteal $(ARGS)

deep: $(VENV)/.dev  ## the same promises on many more texts, examples and trained models
	$(BIN)/python -m pytest -m "(deep or property) and not soak" --hypothesis-profile deep --timeout 1800 -n $(PROCESSES) --dist worksteal $(ARGS)

check: $(VENV)/.dev  ## format, lint and types: what must pass before the tests are worth running
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/hadolint Dockerfile

fix: $(VENV)/.dev  ## format, and repair what the linter can repair; then see what `check` says
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.runtime $(PEERS)/.peers  ## measure, against the machine's limit and against others, in one run of half an hour
	$(BIN)/python benchmarks/run.py --peers $(PEERS)/bin/python $(ARGS)

settings: $(VENV)/.dev  ## write docs/settings.md again, from the help of the commands
	$(BIN)/python tests/support/settings_page.py

measure: $(VENV)/.dev  ## how the modules hang together: files, lines, longest chain of imports, fullest folder
	$(BIN)/python tests/support/structure.py

soak: $(VENV)/.dev  ## minutes of mixed load, to see whether memory grows
	$(BIN)/python -m pytest -m soak --timeout 3600 $(ARGS)

fuzz: $(FUZZ)/.fuzz  ## every reader of bytes from Redis and from model files, guided by coverage, a minute each
	PYTHONPATH=producer:worker $(FUZZ)/bin/python tests/fuzz/run.py -max_total_time=60 $(ARGS)

lock: $(VENV)/.runtime  ## make both lock files anew, with the newest versions that pyproject.toml allows
	$(PIP) install uv==0.13.9
	$(UV) --all-extras --group build --output-file requirements.lock
	$(UV) --all-extras --group dev --constraint requirements.lock --output-file requirements-dev.lock

clean:  ## remove what make made; models in the data folder stay
	rm -rf .venv* dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find producer worker tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say that .venv is up to date, so that only the first run, and one after a change of locks, installs.
$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one, as in: make PYTHON=python3.12 …"; exit 1; }
	@echo "Setting up $(VENV) (once; a minute or two)"
	@$(BIN)/python -c pass 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "Adding the tools for tests and checks to $(VENV) (once)"
	$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# What embedmill is compared with stands apart: nothing of it may reach the project's own environment.
$(PEERS)/.peers: benchmarks/peers.txt
	@echo "Setting up $(PEERS) for the comparison (once; some minutes, 2 GB)"
	@$(PEERS)/bin/python -c pass 2>/dev/null || $(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip --disable-pip-version-check --quiet install -r benchmarks/peers.txt
	$(PEERS)/bin/python -m pip --disable-pip-version-check --quiet uninstall --yes torchvision openvino-telemetry
	@touch $@

# atheris has wheels for few Pythons, and nobody needs it to build or test.
$(FUZZ)/.fuzz: requirements.lock tests/fuzz/requirements.txt
	@$(FUZZ)/bin/python -c pass 2>/dev/null || $(PYTHON) -m venv --clear $(FUZZ)
	$(FUZZ)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements.lock
	$(FUZZ)/bin/python -m pip --disable-pip-version-check --quiet install -r tests/fuzz/requirements.txt
	@touch $@
