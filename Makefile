# `make demo` and `make test` set everything up by themselves.
# PYTHON=python3.12 make test   uses another interpreter (3.10 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(notdir $(PYTHON))
CODE := runtime train export benchmarks tests

.PHONY: aarch64 demo test lint install clean help

help:
	@echo "make demo     train, export, verify, run and benchmark on synthetic scenes (4 minutes)"
	@echo "make test     lint, types and all tests"
	@echo "make lint     only ruff, mypy and codespell"
	@echo "make install  only the set-up, in $(VENV)"
	@echo "make aarch64  the base install under emulation, compared with this machine"
	@echo "make clean    remove $(VENV), caches and the demo"

demo: $(STAMP)
	$(BIN)/edgeseg demo --out demo --force

# Two to four processes; a module stays in one, so that its fixtures are made once. Then the
# runtime's tests again with nothing but the base install, as on a device.
test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadscope --cov --cov-report=term:skip-covered
	PYTHONPATH=tests/base_install $(BIN)/pytest -q -p no:cacheprovider tests/runtime

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell

# Not part of `make test`: downloads 400 MB the first time, and needs an x86-64 Debian 12.
aarch64: $(STAMP)
	tests/aarch64/check.sh

install: $(STAMP)

# Runs again only when the dependencies or the interpreter changed.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "edgeseg needs Python 3.10 or newer, but '$(PYTHON)' is" \
	       "$$($(PYTHON) --version 2>&1 || true)." \
	       "Run: make PYTHON=/path/to/python3.10 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing into $(VENV): several gigabytes, a few minutes"
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[all,dev]" -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV) demo dist build .coverage .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
