# Each target makes .venv when it is missing. PYTHON=... chooses the interpreter, ARGS=... goes on
# to pytest or to the benchmarks.

VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python
# One more than there are processors: tests of whole jobs also wait.
JOBS = $$(( $$(getconf _NPROCESSORS_ONLN) + 1 ))

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow check sim bench model

help:
	@echo "make demo       count words on two workers, kill one of them, watch it recover"
	@echo "make test       the tests that take seconds            (ARGS=... goes to pytest)"
	@echo "make test-slow  many seeds, real processes, kill -9    (ARGS=... goes to pytest)"
	@echo "make check      format, lint, types"
	@echo "make sim        the engine in seeded worlds of faults   (SEEDS=... as in SEEDS=2000)"
	@echo "make model      the protocol's models, by spin          (ARGS=... as in ARGS=feedback)"
	@echo "make bench      the benchmarks                         (ARGS=... as in ARGS=--quick)"

demo: $(READY)
	@$(RUN) -m flowsnap.examples.demo $(ARGS)

test: $(READY)
	@$(RUN) -m pytest -q -n $(JOBS) --dist worksteal $(ARGS)

test-slow: $(READY)
	@$(RUN) -m pytest -q -n $(JOBS) --dist worksteal -m slow $(ARGS)

check: $(READY)
	@echo "ruff format" && $(RUN) -m ruff format --check --quiet .
	@echo "ruff check" && $(RUN) -m ruff check --quiet .
	@echo "mypy" && $(RUN) -m mypy --no-error-summary
	@echo "all is well"

sim: $(READY)
	@$(RUN) -m flowsnap.testing.simulate $(if $(SEEDS),--seeds=$(SEEDS)) $(ARGS)

model: $(READY)
	@$(RUN) -m models.check $(ARGS)

bench: $(READY)
	@$(RUN) -m benchmarks $(ARGS)

# An interpreter counts only if it runs: a pyenv shim may be there without its Python. An .venv that
# has no working Python 3.11 in it is made anew. pip must be 25.1 to know dependency groups.
$(READY): pyproject.toml
	@if ! $(RUN) -m pip --version >/dev/null 2>&1 \
	    || ! $(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  found=; \
	  for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	      found=$$python; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "flowsnap needs Python 3.11 or newer; python3 here is $$(python3 --version 2>&1)." >&2; \
	    echo "Install one (python.org, apt, brew, pyenv), or name it: make PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  if ! $$found -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "$$found cannot make virtual environments: the module venv is missing." >&2; \
	    echo "On Debian and Ubuntu: sudo apt install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	  echo "making $(VENV) with $$($$found --version)"; \
	  $$found -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "installing flowsnap and the development tools"
	@$(RUN) -m pip install --quiet --upgrade "pip>=25.1"
	@$(RUN) -m pip install --quiet --editable . --group dev
	@touch $(READY)
