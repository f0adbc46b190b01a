# make demo: see mail judged. make test: every check. Both begin with make setup.
# make deb: the Debian package, into dist/. make man: the manual page, on the terminal.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt
CHECKED := spamguard tests deploy/demo.py deploy/man.py

.PHONY: setup demo test lint types unit integration system bench fuzz deb man clean

setup: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SpamGuard needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

# What the checks need beyond the daemon: torch and transformers to test training.
$(VENV)/.installed-for-tests: $(VENV)/.installed
	$(PIP) torch
	$(PIP) -e '.[train,dev]'
	@touch $@

demo: setup
	$(VENV)/bin/python deploy/demo.py sample_mail

test: lint types unit integration system

lint: $(VENV)/.installed-for-tests
	$(VENV)/bin/ruff check $(CHECKED)
	$(VENV)/bin/ruff format --check $(CHECKED)

types: $(VENV)/.installed-for-tests
	$(VENV)/bin/mypy

unit integration system: $(VENV)/.installed-for-tests
	$(VENV)/bin/python -m pytest tests/$@

bench: $(VENV)/.installed-for-tests
	$(VENV)/bin/python -m tests.bench

# Once over every target; longer, or one alone: .venv/bin/python -m tests.fuzz --help
fuzz: $(VENV)/.installed-for-tests
	$(PIP) -e '.[fuzz]'
	$(VENV)/bin/python -m tests.fuzz --seconds 60

deb:
	deploy/debian/build dist

man: setup
	$(VENV)/bin/python deploy/man.py | man -l -

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
