# make demo     install into .venv and make synthetic volumes from the sample segmentations
# make test     install what developers need as well, and run the tests
# make lint     ruff, without installing anything else
# make docs     build the documentation site in site/ and check all its links
# make package  write the archive for Slicer's "Install from file..." to dist/, without installing anything
# make clean    remove .venv and what the commands above have written
#
# PYTHON=/path/to/python3.12 make demo    chooses the interpreter; WORKERS=4 make test the number of test processes;
# make package PACKAGE_ARGS="--os all"    builds for Linux, Windows and macOS (--help lists the options);
# make docs DOCS_ARGS=--online            also asks other hosts whether what the pages link to exists.
#
# All paths are relative, so a clone may lie in a folder whose name has blanks. On Windows, without make, the two pip
# commands in CONTRIBUTING.md do the same.

SHELL := /bin/sh
VENV := .venv
OUT ?= demo-output
WORKERS ?= 2
PYTEST_ARGS ?=
PACKAGE_ARGS ?=
DOCS_ARGS ?=

IN_VENV := $(VENV)/bin/python
PIP := $(IN_VENV) -m pip --disable-pip-version-check
PROJECT_FILES := pyproject.toml setup.py constraints.txt
VERSION_OK := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))

.PHONY: help demo test lint docs package clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# A stamp is written last, so that what was cut off half-way is done again; as long as it is newer than the project's
# files, nothing is installed. The installation is editable: changed code needs no new one.

$(VENV)/stamp-venv:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for candidate in python3.11 python3.12 python3 python; do \
	    if "$$candidate" -c '$(VERSION_OK)' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "SynthDiffusion needs Python 3.11 or 3.12, and none was found (python3 is: $$(python3 --version 2>&1))." >&2; \
	  echo "Install one, or name it: PYTHON=/path/to/python3.12 make demo" >&2; exit 1; \
	fi; \
	if ! "$$python" -c '$(VERSION_OK)' >/dev/null 2>&1; then \
	  echo "SynthDiffusion needs Python 3.11 or 3.12; '$$python' is: $$("$$python" --version 2>&1)." >&2; \
	  echo "Name another one: PYTHON=/path/to/python3.12 make demo" >&2; exit 1; \
	fi; \
	echo "Creating $(VENV) with $$("$$python" --version)"; \
	if ! "$$python" -m venv $(VENV); then \
	  echo "The virtual environment could not be made. On Debian and Ubuntu it needs the package python3-venv." >&2; \
	  exit 1; \
	fi
	@touch $@

$(VENV)/stamp-demo: $(VENV)/stamp-venv $(PROJECT_FILES)
	$(PIP) install -c constraints.txt -e ".[slicer]"
	@touch $@

$(VENV)/stamp-test: $(VENV)/stamp-venv $(PROJECT_FILES)
	$(PIP) install -c constraints.txt -e ".[dev]"
	@touch $(VENV)/stamp-demo $(VENV)/stamp-lint $@

$(VENV)/stamp-lint: $(VENV)/stamp-venv constraints.txt
	$(PIP) install -c constraints.txt ruff
	@touch $@

$(VENV)/stamp-docs: $(VENV)/stamp-venv $(PROJECT_FILES)
	$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@

demo: $(VENV)/stamp-demo
	$(VENV)/bin/synthdiffusion demo --out "$(OUT)"

# One thread per process: the processes are what keeps the cores busy, and more threads than cores are slow.
# pytest ends with 5 when it finds no test at all, which is a fault here and not a success.
test: $(VENV)/stamp-test
	@OMP_NUM_THREADS=1 $(IN_VENV) -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS); status=$$?; \
	if [ $$status -eq 5 ]; then echo "No tests were found under Testing/." >&2; fi; \
	exit $$status

lint: $(VENV)/stamp-lint
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

# Nothing is asked of the network but for the installation. A broken link, or a page without a place, fails it.
docs: $(VENV)/stamp-docs
	$(IN_VENV) Docs/Site/build_site.py $(DOCS_ARGS)

# The script needs the standard library only, so any Python from 3.11 on will do.
package:
	@if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- python3 python3.12 python3.11 python; fi; \
	for python in "$$@"; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    "$$python" Testing/Packaging/build_package.py $(PACKAGE_ARGS); exit; \
	  fi; \
	done; \
	echo "make package needs Python 3.11 or later; tried: $$*. Name one: PYTHON=/path/to/python3.12 make package" >&2; \
	exit 1

clean:
	rm -rf $(VENV) demo-output build dist site SynthDiffusion.egg-info .pytest_cache .ruff_cache
	find SynthDiffusion SynthDiffusionLib Testing Docs -name __pycache__ -type d -prune -exec rm -rf {} +
