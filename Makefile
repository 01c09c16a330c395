# `make demo` and `make test` need Python >= 3.11 and nothing else; everything goes into .venv.
PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python

OUT ?= device-results
PYTEST := -n 2 --dist loadfile  # programs are compiled once for the tests of a file

.PHONY: demo test test-slow test-all check device clean

demo: $(VENV)/.core
	$(VENV)/bin/jaxdiff demo

test: $(VENV)/.test
	$(PYTHON) -m pytest $(PYTEST) -m "not slow"

test-slow: $(VENV)/.test
	$(PYTHON) -m pytest $(PYTEST) -m slow

test-all: $(VENV)/.test
	$(PYTHON) -m pytest $(PYTEST)

check: $(VENV)/.dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# Correctness in both precisions and throughput on what JAX sees, in nine minutes at most: on an accelerator with packages of
# its own (JAX, equinox, jaxtyping, optax, lineax, pytest), make device PYTHON=python3; results stand in OUT as they come.
# SMOKE=1 shows that it runs.
device: | $(if $(filter $(VENV)/bin/python,$(PYTHON)),$(VENV)/.test)
	@mkdir -p $(OUT)
	@export PYTHONUNBUFFERED=1; failed=0; \
	$(if $(SMOKE),,XLA_FLAGS=) timeout -s INT 195 $(PYTHON) -m pytest -v --tb=short -p no:cacheprovider tests/test_device.py $(if $(SMOKE),-k cosines) > $(OUT)/tests.txt 2>&1 || failed=$$?; \
	tail -n 15 $(OUT)/tests.txt; \
	timeout -s INT 340 $(PYTHON) -m jaxdiff.benchmarks throughput --output $(OUT) $(if $(SMOKE),--smoke) --device $$($(PYTHON) -c "import jax; print(jax.default_backend())") || failed=$$?; \
	exit $$failed

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
