.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
export BASE ?= main
# the tests of a file stay together, as they share what is slow to make; files in the order of tests/conftest.py
IN_PARALLEL := -n $(shell nproc) --dist loadfile --no-loadscope-reorder
# dvc runs `python3 src/...`: the environment's own python must come first
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -q -r requirements.txt
	@touch $@

$(VENV)/.installed-app: $(VENV)/.installed requirements-app.txt requirements-heif.txt
	$(VENV)/bin/pip install -q -r requirements-app.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-app requirements-dev.txt .github/requirements.txt
	$(VENV)/bin/pip install -q -r requirements-dev.txt
	@touch $@

.PHONY: help install app repro demo pr-report test test-all test-fast docs-check check audit clean-checkpoints
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20
install: $(VENV)/.installed ## Make the virtual environment and install everything
app: $(VENV)/.installed-app ## Install what `finegrain demo`, `export` and `sweep` need too
repro: $(VENV)/.installed ## Install, then rebuild data, models, metrics and report
	@finegrain repair --dvc-only # what a killed dvc has left would stop the next one
	dvc repro
demo: $(VENV)/.installed-app ## Open a page on this machine that answers photos dropped on it
	finegrain demo
pr-report: $(VENV)/.installed ## What this branch changes (BASE=main), as its pull request's comment: pr-report.md
	finegrain review --out pr-report.md $(REVIEW) -- "$$BASE"
test: $(VENV)/.installed-dev ## Run every test but the long ones, in eight minutes on two cores
	python -m pytest $(IN_PARALLEL)
test-all: $(VENV)/.installed-dev ## Run every test, with random kills, toy benchmarks and queues
	python -m pytest $(IN_PARALLEL) -m ""
test-fast: $(VENV)/.installed-dev ## Run the tests that start no DVC pipeline
	python -m pytest $(IN_PARALLEL) -m "not slow"
docs-check: $(VENV)/.installed-dev ## Run every command of the README and docs on a small sample
	python -m pytest -q -s tests/docs_check.py
check: $(VENV)/.installed-dev ## Lint, format check, types
	ruff check .
	ruff format --check .
	mypy
audit: $(VENV)/.installed-app ## Ask for known flaws in what is installed (needs the internet)
	$(VENV)/bin/pip install -q pip-audit==2.10.1
	pip freeze -q --exclude-editable > $(VENV)/audited.txt
	pip-audit --strict --no-deps --disable-pip -r $(VENV)/audited.txt # strict: what cannot be asked for is no pass
clean-checkpoints: ## Remove the saved states of interrupted trainings and downloads
	rm -rf .checkpoints
