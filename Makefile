.DEFAULT_GOAL := help
VENV := .venv
PIP := $(VENV)/bin/python -m pip
# the newest Python here that can make an environment; another one: make PYTHON=/path/to/python3
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11; do \
	$$name -c 'import ensurepip, venv' 2> /dev/null && echo $$name && break; done)
# `make install TORCH=cpu` takes torch's build for the CPU, from PyTorch's index; .venv remembers it
TORCH_HERE := $(shell cat $(VENV)/.torch 2> /dev/null)
TORCH ?= $(or $(TORCH_HERE),cuda)
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
export BASE ?= main
# the tests of a file stay together, as they share what is slow to make; files in the order of tests/conftest.py
IN_PARALLEL := -n $(shell nproc) --dist loadfile --no-loadscope-reorder
# their files in memory where 4 GB of it are free (they take one): hundreds of small clones are slow on a disk
IN_MEMORY := $(shell grep -qs ' /dev/shm .*noexec' /proc/mounts || df -k --output=avail /dev/shm 2> /dev/null | \
	awk 'NR == 2 && $$1 > 4000000 {print "PYTEST_DEBUG_TEMPROOT=/dev/shm"}')
# dvc runs `python3 src/...`: the environment's own python must come first
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# each stage is a start of Python, which is seconds faster with compiled files
unexport PYTHONDONTWRITEBYTECODE

ifeq ($(filter $(TORCH),cpu cuda),)
$(error TORCH=$(TORCH): it is cpu or cuda)
endif
ifneq ($(TORCH),$(or $(TORCH_HERE),$(TORCH)))
$(error TORCH=$(TORCH): $(VENV) has torch for $(TORCH_HERE); for the other build remove it first: rm -rf $(VENV))
endif

# An environment that is there (virtualenv, uv venv --seed) is used as it is.
define environment
@fail() { echo "error: $$*" >&2; exit 1; }; python="$(PYTHON)"; \
git --version > /dev/null 2>&1 || fail "git is not installed (Debian, Ubuntu: apt install git)"; \
$(PIP) --version > /dev/null 2>&1 || { \
	test -n "$$python" || fail "found no Python 3.11 to 3.13 with its modules venv and ensurepip" \
		"(Debian, Ubuntu: apt install python3-venv), or say where one is: make PYTHON=/path/to/python3"; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		fail "PYTHON=$$python is not a Python of 3.11 or newer"; \
	"$$python" -m venv $(VENV); \
} && echo $(TORCH) > $(VENV)/.torch
endef

# $(call locked,FILE): install the versions of a lock file and nothing with another hash. With TORCH=cpu, torch and
# torchvision, whose builds for the CPU have other hashes, come from an index of their own, and CUDA's packages not at all.
ifeq ($(TORCH),cuda)
locked = $(PIP) install -q --no-deps --require-hashes -r $(1)
else
define locked
awk '/^[a-z]/ {skip = /^(torch|torchvision|triton|nvidia-.*|cuda-.*)==/} !skip' $(1) > $(VENV)/$(1)
$(PIP) install -q --no-deps --require-hashes -r $(VENV)/$(1)
$(PIP) install -q --no-deps --index-url $(TORCH_CPU_INDEX) $$(grep -oE '^(torch|torchvision)==[^ ]+' $(1))
endef
endif

$(VENV)/.installed: requirements.txt pyproject.toml
	$(environment)
	$(call locked,requirements.txt)
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-app: $(VENV)/.installed requirements-app.txt
	$(call locked,requirements-app.txt)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-app requirements-dev.txt
	$(call locked,requirements-dev.txt)
	@touch $@

# all versions with their hashes, for every system and Python 3.11 or newer; they stay as they are where they can
LOCK := uv pip compile -q --universal --python-version=3.11 --generate-hashes

.PHONY: help install app dev lock repro demo pr-report test test-all test-fast docs docs-check check audit clean-checkpoints
help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20
install: $(VENV)/.installed ## Make the virtual environment and install everything
app: $(VENV)/.installed-app ## Install what `finegrain demo`, `export` and `sweep` need too
dev: $(VENV)/.installed-dev ## Install what tests and linters need too
lock: $(VENV)/.installed-dev ## Write requirements*.txt from pyproject.toml; newer versions: UPGRADE=--upgrade or '-P pillow'
	$(LOCK) $(UPGRADE) --output-file=requirements.txt pyproject.toml
	$(LOCK) $(UPGRADE) --all-extras --constraint=requirements.txt --output-file=requirements-app.txt pyproject.toml
	$(LOCK) $(UPGRADE) --all-extras --group=dev --constraint=requirements-app.txt \
		--output-file=requirements-dev.txt pyproject.toml
	$(LOCK) --group=comment --constraint=requirements-dev.txt --output-file=.github/requirements.txt
repro: $(VENV)/.installed ## Install, then rebuild data, models, metrics and report
	@finegrain repair --dvc-only # what a killed dvc has left would stop the next one
	dvc repro
demo: $(VENV)/.installed-app ## Open a page on this machine that classifies photos dropped on it
	finegrain demo
pr-report: $(VENV)/.installed ## What this branch changes (BASE=main), as its pull request's comment: pr-report.md
	finegrain review --out pr-report.md $(REVIEW) -- "$$BASE"
test: $(VENV)/.installed-dev ## Run every test but the long ones, in five minutes on two cores
	$(IN_MEMORY) python -m pytest $(IN_PARALLEL)
test-all: $(VENV)/.installed-dev ## Run every test, with random kills, toy benchmarks and queues
	$(IN_MEMORY) python -m pytest $(IN_PARALLEL) -m ""
test-fast: $(VENV)/.installed-dev ## Run the tests that start no DVC pipeline
	$(IN_MEMORY) python -m pytest $(IN_PARALLEL) -m "not slow"
docs: $(VENV)/.installed ## Write the generated parts of the docs: parameters, and results of the sample
	python scripts/parameters.py
	python scripts/sample_blocks.py
docs-check: $(VENV)/.installed-dev ## Run every command of the README and docs on a small sample
	python -m pytest -q -s tests/docs_check.py
check: $(VENV)/.installed-dev ## Lint, format check, types
	ruff check .
	ruff format --check .
	mypy
	hadolint Dockerfile
audit: $(VENV)/.installed-app ## Ask for known flaws in what is installed (needs the internet)
	$(PIP) install -q pip-audit==2.10.1
	pip freeze -q --exclude-editable > $(VENV)/audited.txt
	pip-audit --strict --no-deps --disable-pip -r $(VENV)/audited.txt # strict: what cannot be asked for is no pass
clean-checkpoints: ## Remove the saved states of interrupted trainings and downloads
	rm -rf .checkpoints
