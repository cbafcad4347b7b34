# Two commands: `make run` trains and opens the way to a report, `make test` checks that everything works.
# Needs Python 3.11 or newer, make and git; everything else goes into .venv, in the versions of constraints.txt.

VENV   := .venv
BIN    := $(VENV)/bin
# what VENV/made holds of an environment that stood there before
FOUND  := found
# Tried in this order; `make run PYTHON=/path/to/python` names one.
PYTHON ?= python3.12 python3.11 python3
RECIPE ?= recipes/dualgan_t1t2.toml
ARGS   ?=
# pip's lines go to a file, whose end is shown if pip fails: with --quiet it would hide the reason of a conflict.
# Not compiled in advance: of 19,000 modules a command imports some, which Python compiles as it needs them. It must be
# allowed to keep them: else every process compiles those of PyTorch again, for 3 s.
export PYTHONDONTWRITEBYTECODE :=
install = $(BIN)/python -m pip install --no-compile --progress-bar off --disable-pip-version-check --constraint constraints.txt \
	--editable $(1) >$(VENV)/pip.log 2>&1 || { tail -n 15 $(VENV)/pip.log >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help run test test-bench test-slow bench-gpu docs lint clean

help:  ## show this list
	@echo "make COMMAND, one of:"
	@sed -n 's/^\([a-z-]*\):.*## /  \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14
	@echo "Another recipe or options: make run RECIPE=cyclegan_t1t2 ARGS='--data FOLDER --seed 1'"

run: $(VENV)/ready  ## install into .venv, train the DualGAN recipe and write its report
	@$(BIN)/gantk run $(RECIPE) $(ARGS)

# One file is one process's: its fixtures are made once. Several processes of one thread each beat one of several.
# In the order of their names, as a file of few tests that take long, which xdist would take last, leaves one waiting.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint  ## install into .venv, check style and types, and run the quick tests on two cores
	@$(PYTEST) -m "not slow and not bench" $(ARGS)

test-bench: $(VENV)/ready-dev  ## run the tests of benchmarks/
	@$(PYTEST) -m "bench and not slow" $(ARGS)

test-slow: $(VENV)/ready-dev $(VENV)/ready-docs test-bench  ## run the tests that build, install or train for longer, and test-bench
	@$(PYTEST) -m slow $(ARGS)

# What runs first of: .venv, then any Python at hand that has PyTorch. Nothing is installed, no network is needed.
bench-gpu:  ## speed and quality of every published network on this machine's GPU, in 8 minutes (ARGS='--hours 10' trains all)
	@for python in $(BIN)/python python3 python $(PYTHON); do \
		"$$python" -c 'import sys, importlib.util as u; sys.exit(not u.find_spec("torch"))' >/dev/null 2>&1 || continue; \
		PYTHONPATH="$(CURDIR):$(CURDIR)/plugins:$(CURDIR)/benchmarks$${PYTHONPATH:+:$$PYTHONPATH}" \
			exec "$$python" -m gantk bench --suite gpu $(ARGS); \
	done; \
	echo "No Python with PyTorch among: $(BIN)/python python3 python $(PYTHON)" >&2; exit 1

docs: $(VENV)/ready-docs  ## build the documentation into build/site, which opens offline
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet $(ARGS)
	@echo "Written: $(CURDIR)/build/site/index.html"

lint: $(VENV)/ready-dev  ## check style and types only
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/python -m mypy --no-error-summary

clean:  ## remove everything that was built, and .venv if make made it; runs/ stays
	@if [ -f $(VENV)/made ] && ! grep -q $(FOUND) $(VENV)/made; then rm -rf $(VENV); fi
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

# Each stamp says that an installation was finished; it is renewed when what is to be installed changes.
$(VENV)/ready: $(VENV)/made pyproject.toml constraints.txt
	@echo "Installing gantk into $(VENV) (once; PyTorch is large, so this can take some minutes)"
	@$(call install,.)
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	@echo "Installing what the tests need into $(VENV)"
	@$(call install,'.[dev]')
	@touch $@

$(VENV)/ready-docs: $(VENV)/ready
	@echo "Installing what the documentation is built with into $(VENV)"
	@$(call install,'.[docs]')
	@touch $@

# An environment that stands there already is used as it is, or named: gantk removes none that it did not make.
# Else the first Python that is new enough and can make an environment with pip in it. `making` is of one half made.
$(VENV)/made:
	@if [ -e $(VENV)/making ]; then \
		rm -rf $(VENV); \
	elif [ -e $(VENV) ] || [ -L $(VENV) ]; then \
		$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
			&& $(BIN)/python -m pip --version >/dev/null 2>&1 \
			&& echo "Using the environment $(VENV), which stood here before" \
			&& echo $(FOUND) >$@ && exit 0; \
		echo "$(VENV) is not an environment of Python 3.11 or newer with pip, so gantk cannot be installed into it." >&2; \
		echo "It was not changed. Move it away, or name another folder with: make $(MAKECMDGOALS) VENV=.venv-gantk" >&2; \
		exit 1; \
	fi; \
	for python in $(PYTHON); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
		mkdir -p $(VENV) && touch $(VENV)/making && "$$python" -m venv $(VENV) >/dev/null 2>&1 \
			&& $(BIN)/python -m pip --version >/dev/null 2>&1 && mv $(VENV)/making $@ && exit 0; \
		rm -rf $(VENV); \
	done; \
	echo "No usable Python among: $(PYTHON)" >&2; \
	echo "gantk needs Python 3.11 or newer with its venv module (on Debian and Ubuntu: apt install python3-venv)." >&2; \
	echo "Name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
	exit 1
