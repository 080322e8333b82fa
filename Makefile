# What there is to do here. Each target sets up what it needs: `make demo` works on a fresh clone.
.DEFAULT_GOAL := help
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-with-dev
# The oldest Python that Ingle runs on is the one that it is tested with, so it comes first.
PYTHONS ?= python3.11 python3 python3.12 python3.13

.PHONY: help setup demo serve test check lint bench format docs constraints clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install Ingle with its development tools.

$(STAMP): pyproject.toml constraints.txt hatch_build.py $(wildcard models/text/native/*.[ch])
	@set -eu; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for candidate in $(PYTHONS); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Ingle needs Python 3.11 or newer; tried: $(PYTHONS)." >&2; \
	    echo "Install it, or name yours: make setup PYTHONS=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi
	@echo "Installing the pinned dependencies (the first time takes some minutes)"
	$(BIN)/python -m pip install --no-input --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## Pull the default models, start a server, translate a sentence, write down a clip.
	$(BIN)/ingle demo

serve: $(STAMP) ## Serve over HTTP on 127.0.0.1:8080.
	$(BIN)/ingle serve

test: $(STAMP) ## Run every test that this machine can run; says what was skipped and why.
	$(BIN)/python -m pytest

check: lint test ## Everything that must be green: style, types, arrows, documents, tests.

lint: $(STAMP) ## The part of `check` that runs no test.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/ingle config docs --check

bench: $(STAMP) ## Measure text, speech, jobs and responsiveness; some minutes each, one table each.
	$(BIN)/python -m benchmarks.text
	$(BIN)/python -m benchmarks.speech
	$(BIN)/python -m benchmarks.jobs
	$(BIN)/python -m benchmarks.responsiveness

format: $(STAMP) ## Put the code into its style.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(STAMP) ## Write docs/settings.md anew from the settings class.
	$(BIN)/ingle config docs --write

# torch's build (CPU or CUDA) is the index's choice, so its local version does not belong into the pins.
constraints: $(STAMP) ## Write constraints.txt anew; UPGRADE=--upgrade takes the newest versions.
	CUSTOM_COMPILE_COMMAND='make constraints' $(BIN)/pip-compile --quiet --all-extras --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $(UPGRADE) --output-file constraints.txt pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+[a-z0-9]*/\1/' constraints.txt

clean: ## Remove .venv and caches; pulled models stay.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
