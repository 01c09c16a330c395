# `make demo` and `make test` need Python >= 3.11 and nothing else; everything goes into .venv.
PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python

.PHONY: demo test check clean

demo: $(VENV)/.core
	$(VENV)/bin/jaxdiff demo

test: $(VENV)/.test
	$(PYTHON) -m pytest -n 2

check: $(VENV)/.dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

clean:
	rm -rf $(VENV) demo dist build .pytest_cache .mypy_cache .ruff_cache

$(PYTHON):
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxdiff needs Python >= 3.11, got " + sys.version.split()[0] + "; name a newer one: make PYTHON3=python3.12")'
	$(PYTHON3) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.core: pyproject.toml | $(PYTHON)
	$(PYTHON) -m pip install --quiet --editable .
	@touch $@

# .venv/.test, .venv/.dev, … hold the extra of that name.
$(VENV)/.%: pyproject.toml | $(VENV)/.core
	$(PYTHON) -m pip install --quiet --editable ".[$*]"
	@touch $@
