# One virtual environment, .venv, serves all targets; it is made on first use.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Speaks of each package as it comes, with a bar on a terminal: torch alone is hundreds of MB.
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-portable test-versions test-slow check format results docs dist clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed  ## Distil a digits classifier without data, offline, in under two minutes
	$(BIN)/lenient demo

# One process per core, one thread each: many small tensors gain nothing from more threads, and one that waits may sleep.
# Tests go to whichever process has none left, the long files first; what is dear is made once for all (tests/conftest.py).
test: $(VENV)/.installed-dev  ## Run the fast tests (ARGS="-k name" is handed to pytest)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal \
	    --durations=10 $(ARGS)

test-portable: $(VENV)/.installed-dev  ## Run the fast tests as on other processors, users, paths and Pythons: five times
	tests/portable.sh $(BIN)/python $(ARGS)

test-slow: $(VENV)/.installed-dev  ## Run the long tests, then test-versions, as before a release; installs Ray, trackers and the like
	$(PIP) -e '.[dev,docs,ray,slurm,wandb,mlflow,readers]'
	$(BIN)/python -m pytest -m 'slow or optional' --nothing-missing $(ARGS)
	tests/versions.sh $(PYTHON)

test-versions:  ## Run the fast tests with the lowest versions that pyproject.toml allows, and with the newest
	tests/versions.sh $(PYTHON) $(ARGS)

check: $(VENV)/.installed-dev  ## Check format, lint, types and floors
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## Format the code and repair what can be repaired
	$(BIN)/ruff check --fix-only src tests benchmarks docs
	$(BIN)/ruff format src tests benchmarks docs

results: $(VENV)/.installed-dev  ## Draw the grids in results again from the records of their cells
	for cells in $$(find results -name cells.json); do $(BIN)/lenient bench report $$cells || exit; done
	$(BIN)/python benchmarks/claims.py results grids
	$(BIN)/python benchmarks/choosing.py

docs: $(VENV)/.installed-docs  ## Run the tutorials and build the pages into build/docs, offline; a warning is an error
	rm -rf build/docs
	$(BIN)/sphinx-build -q -E -W --keep-going -c docs . build/docs
	@echo "Open build/docs/index.html."

dist: $(VENV)/.installed-dev  ## Build the source distribution and the wheel into dist
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m build
	@echo "pip install dist/*.whl installs it; CONTRIBUTING.md says what comes before a release."

clean:  ## Remove caches and build leftovers; .venv and runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/*.egg-info
	find src tests -type d -name __pycache__ -prune -exec rm -rf {} +

DOWNLOADS := "torch and torchvision before all (on Linux with CUDA's libraries): several GB and some minutes" \
    "with an empty pip cache. What is in $(VENV) already and fits is kept."

# A stamp is written only after a complete installation, so an interrupted one is taken up again.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing lenient and what it needs into $(VENV)," $(DOWNLOADS)
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing lenient with its development tools into $(VENV)," $(DOWNLOADS)
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing lenient with what builds its pages into $(VENV)."
	@$(PIP) -e '.[docs]'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "lenient needs Python 3.11 or newer, but $(PYTHON) is missing or older:" \
	        "name another one with, say, make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV)."
	@$(PYTHON) -m venv $(VENV)
