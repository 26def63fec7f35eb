# make demo   a small MARS++ from pretraining to report, on this machine, six or seven minutes after installation
# make test   style, types and all tests
# Both set up .venv first. PYTHON chooses the interpreter (3.11 to 3.13), PROCESSES the training processes of the demo.

PYTHON ?= python3
PROCESSES ?= 2
BIN := .venv/bin

.PHONY: demo test check setup clean
demo: setup
	$(BIN)/python -m recipes.demo --processes $(PROCESSES)

test: setup .venv/test-packages check
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadgroup

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/installed

.venv/installed: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "tbps needs Python 3.11 to 3.13, found: $$($(PYTHON) --version 2>&1); set PYTHON=python3.12, say"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import shutil, sys; sys.exit(shutil.disk_usage(".").free < 10e9)' || \
	  { echo "less than 10 GB free here; the environment with PyTorch takes about 7 GB"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "installing PyTorch and the other packages into .venv: some minutes, about 3 GB to fetch"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on --constraint constraints.txt --editable '.[test]'
	@touch $@

.venv/test-packages: .venv/installed tests/packages.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes --requirement tests/packages.txt
	@touch $@

clean:
	rm -rf .venv demo runs
