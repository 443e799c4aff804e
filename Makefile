# make help lists the targets. Everything runs in the active conda or virtual environment, or,
# where none is active, in .venv, which is made on first use.
PYTHON     ?= python3
EXPERIMENT ?=
PROFILE    ?= demo
SEED       ?= 0
CORES      ?= all
# for sweep: a file of notebooks/sweeps or the path of one; ON: a Snakemake profile, such as examples/slurm
FILE       ?= digits_seeds
ON         ?=
# requirements-peers.lock adds Foolbox and ART, for the parity tests and the benchmarks
LOCK       ?= requirements.lock

ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
# relative where it lies in here, because make takes a space in a path for its end
HOME_OF_PACKAGES := $(or $(subst @,,$(subst @$(CURDIR)/,,@$(ACTIVE))),.venv)
$(if $(findstring :,$(CURDIR)),$(error $(CURDIR) has a colon in its path, which no Python environment can have: move it))
$(if $(or $(word 2,$(HOME_OF_PACKAGES)),$(findstring :,$(HOME_OF_PACKAGES))),\
	$(error the environment $(ACTIVE) has a space or a colon in its path, which make cannot take: deactivate it))
BIN       := $(HOME_OF_PACKAGES)/bin
INSTALLED := $(HOME_OF_PACKAGES)/.kitlib-$(LOCK)
PIP       := $(BIN)/python -m pip install --quiet --disable-pip-version-check
AWAY      := $(if $(ON),--snakemake-profile '$(ON)')

.DEFAULT_GOAL := help
.PHONY: help install reproduce sweep test test-kitlib test-notebooks lab publish notebooks docs bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  e.g. make reproduce EXPERIMENT=cifar10_exp2 PROFILE=demo SEED=1"

RIGHT     := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed: make PYTHON=/path/to/python3.11, and no older or newer environment active")
$(HOME_OF_PACKAGES)/bin/python:
	@$(PYTHON) -c '$(RIGHT)'
	$(PYTHON) -m venv $(HOME_OF_PACKAGES)

# The lock is complete, so nothing is left to resolve; setuptools, which builds kitlib, is in it.
$(INSTALLED): $(LOCK) pyproject.toml | $(HOME_OF_PACKAGES)/bin/python
	@$(BIN)/python -c '$(RIGHT)'
	$(PIP) --no-deps -r $(LOCK)
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

install: $(INSTALLED) ## install the locked packages

reproduce: $(INSTALLED) ## run notebooks 01-05 for EXPERIMENT (default: the two embedded ones) and print the tables
	@$(BIN)/python -m kitlib reproduce $(EXPERIMENT) --profile $(PROFILE) --seed $(SEED) --cores $(CORES) $(AWAY)

sweep: $(INSTALLED) ## run the sweep FILE over seeds and settings, and aggregate it (ON=examples/slurm: on a cluster)
	@$(BIN)/python -m kitlib sweep '$(FILE)' --cores $(CORES) $(AWAY)

# Three processes side by side, as one test keeps less than one core busy, and two would not end at the same time. The
# notebooks go one after the other, as each goes on from the one before.
test: $(INSTALLED) ## pytest over tests/ and nbval over notebooks/
	@$(MAKE) --no-print-directory --keep-going --jobs=2 test-kitlib test-notebooks

test-kitlib:
	runs=$$(mktemp -d); trap 'rm -rf "$$runs"' EXIT; KITLIB_RUNS=$$runs $(BIN)/python -m pytest -p no:randomly --numprocesses=2 --dist=loadfile --no-loadscope-reorder tests

test-notebooks:
	runs=$$(mktemp -d); trap 'rm -rf "$$runs"' EXIT; KITLIB_RUNS=$$runs $(BIN)/python -m pytest -p no:randomly --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

lab: $(INSTALLED) ## JupyterLab, open on notebook 00
	$(BIN)/jupyter lab notebooks/00_first_look.ipynb

publish: $(INSTALLED) ## copy results, audits and models of EXPERIMENT to figures/, and redraw what the README shows
	@$(BIN)/python -m kitlib publish $(EXPERIMENT) --profile $(PROFILE) --seed $(SEED)

notebooks: $(INSTALLED) ## run the notebooks and write their outputs into notebooks/
	$(BIN)/python -m kitlib refresh

docs: $(INSTALLED) ## the book, in docs/_build/html: course, results, guides and the Python interface
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

bench: ## the benchmarks, side by side with their peers
	@$(MAKE) --no-print-directory install LOCK=requirements-peers.lock
	$(BIN)/python -m benchmarks.attacks
	$(BIN)/python -m benchmarks.training

EXTRAS  := notebooks dicom download cluster test docs dev
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --upgrade
lock: ## make both lock files anew from pyproject.toml (needs uv)
	$(COMPILE) $(EXTRAS:%=--extra %) --output-file requirements.lock pyproject.toml
	$(COMPILE) --all-extras --constraint requirements.lock --output-file requirements-peers.lock pyproject.toml

clean: ## remove .venv (runs/ stays)
	rm -rf .venv
