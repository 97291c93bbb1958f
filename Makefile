# Everything that a contributor or the CI runs. `make` alone lists the targets.
#
# Paths are relative, so that the folder may have spaces in its name. `.venv/.installed-TARGET` records that what
# a target needs is installed; it is renewed when a pyproject.toml changes. Another Python: make setup PYTHON=python3.12

SHELL := /bin/sh
# Python compiles a module when it is first imported; pip would compile thousands that never are. What Python compiled it
# keeps, in containers, too, whose images often forbid it: else each of the many processes below compiles PyTorch again.
export PIP_COMPILE := 0
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?=
BENCH ?=
DIST ?=
SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
CANDIDATES = $(if $(PYTHON),"$(PYTHON)",python3 python3.13 python3.12 python3.11 python)
NOT_INSTALLED = The packages could not be installed; pip says why above. If it found no torch, this Python is too new for \
	PyTorch: rm -rf .venv; make setup PYTHON=python3.12. If it reached nothing, check the network; then repeat the command.

.PHONY: help setup demo test test-oldest test-integrations lint types doctest docs dist messages results notebooks bench evidence gpu format clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

setup: .venv/.installed-dev ## make .venv and install both packages for development

demo: .venv/.installed-demo ## train a deep network of sigmoids, with and without Sigmoid Core
	.venv/bin/sigmoid-core demo

test: .venv/.installed-test ## run the tests
	.venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadscope

test-oldest: .venv-oldest/.installed ## run the tests of the packages with the lowest versions that they allow
	.venv-oldest/bin/python -m pytest -n auto --maxprocesses 8 --dist loadscope packages

test-integrations: .venv/.installed-integrations ## run the tests that need git, a package registry or other frameworks (EVERY=1: with all programs)
	.venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadscope tests/integrations

lint: .venv/.installed-dev ## check style, format and the import contracts
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/lint-imports --no-logo

format: .venv/.installed-dev ## fix style and format
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

types: .venv/.installed-dev ## check the types
	.venv/bin/python -m mypy

doctest: .venv/.installed-test ## run the examples in the docstrings
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --doctest-modules --doctest-ignore-import-errors packages/unstuck/src packages/sigmoid-core/src

docs: .venv/.installed-docs ## build the documentation into docs/_build/html
	.venv/bin/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

dist: .venv/.installed-dev ## build both packages into dist/ and try them in empty environments (make dist DIST=--oldest: the oldest versions)
	.venv/bin/python .ci/dist.py $(DIST)

messages: .venv/.installed-test ## compile the Chinese texts of both packages
	.venv/bin/python tests/support/messages.py

results: .venv/.installed-dev ## write the tables of the documentation again from benchmarks/results
	.venv/bin/python docs/results.py

notebooks: .venv/.installed-integrations ## run the notebooks of the documentation and store their output
	.venv/bin/python docs/notebooks.py

bench: .venv/.installed-integrations ## run every benchmark, one after the other (make bench BENCH=--quick for a short run)
	@set -e; for script in $(filter-out benchmarks/training.py benchmarks/gpu.py,$(wildcard benchmarks/[!_]*.py)); do \
		echo; echo "== $$script"; .venv/bin/python "$$script" $(BENCH); \
	done

evidence: .venv/.installed-integrations ## run what READMEs and landing pages quote again, on this commit, and say what differs (resumable)
	.venv/bin/python benchmarks/_evidence.py

gpu: .venv/.installed-dev ## measure on a GPU, in 20 minutes
	.venv/bin/python benchmarks/gpu.py --resume

clean: ## remove everything that was built (.venv and runs/ stay)
	rm -rf build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .venv-oldest
	find packages tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.made:
	@if ! .venv/bin/python -c '$(SUITABLE)' 2>/dev/null || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
		python=; found=; \
		for candidate in $(CANDIDATES); do \
			"$$candidate" -c '$(SUITABLE)' 2>/dev/null || continue; \
			found=$$candidate; \
			if "$$candidate" -c 'import venv, ensurepip' 2>/dev/null; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "Sigmoid Core needs Python 3.11 or newer; none of these is: $(subst ",,$(CANDIDATES))." >&2; \
			echo "Install one, or name yours: make setup PYTHON=/path/to/python3.12" >&2; exit 1; \
		fi; \
		if [ -z "$$python" ]; then \
			echo "$$found cannot make virtual environments: its venv or ensurepip module is missing." >&2; \
			echo "On Debian and Ubuntu: apt install python3-venv. Or name another Python: make setup PYTHON=/path/to/python3.12" >&2; \
			exit 1; \
		fi; \
		echo "Making .venv with $$python."; \
		rm -rf .venv; "$$python" -m venv .venv; \
	fi
	@touch .venv/.made

# What is installed for a target: the two packages, and what the target needs beside them.
PACKAGES := -e packages/unstuck -e
FOR_demo := $(PACKAGES) packages/sigmoid-core[lab]
FOR_test := $(PACKAGES) packages/sigmoid-core[data,lab,plots,sklearn,tensorboard] -r tests/requirements.txt
FOR_dev := $(FOR_test) -r tests/requirements-dev.txt
FOR_docs := $(FOR_test) -r docs/requirements.txt
FOR_integrations := $(FOR_dev) -r tests/integrations/requirements.txt

.venv/.installed-%: .venv/.made packages/unstuck/pyproject.toml packages/sigmoid-core/pyproject.toml tests/requirements.txt
	@echo "Installing packages into .venv; the first time, this downloads PyTorch and takes some minutes."
	@.venv/bin/python -m pip install -q --disable-pip-version-check $(FOR_$*) || { echo "$(NOT_INSTALLED)" >&2; exit 1; }
	@touch .venv/.installed-$*

.venv/.installed-dev: tests/requirements-dev.txt
.venv/.installed-integrations: tests/requirements-dev.txt tests/integrations/requirements.txt

.venv-oldest/.installed: .venv/.installed-test .ci/oldest.py
	@.venv/bin/python -c 'import sys; sys.exit(sys.version_info > (3, 12))' || { \
		echo "The oldest packages need Python 3.11: rm -rf .venv; make test-oldest PYTHON=python3.11" >&2; exit 1; \
	}
	rm -rf .venv-oldest
	.venv/bin/python -m venv .venv-oldest
	.venv/bin/python .ci/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install -q --disable-pip-version-check $(FOR_test) -c .venv-oldest/constraints.txt
	@touch .venv-oldest/.installed
