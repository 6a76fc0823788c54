# Everything a person does with a clone. The tools live in .venv, which is made on first use.

PYTHON ?= python3
# Where torch comes from, e.g. https://download.pytorch.org/whl/cpu; empty: pip's own index, on Linux the CUDA build.
TORCH_INDEX ?=
# For how long `make chaos` disturbs the workers, and on which backend: postgresql or mariadb; empty: both.
SECONDS ?= 120
BACKEND ?=

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt

.DEFAULT_GOAL := help
# Two installations into one environment at once would break it.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow chaos lint bench features clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'PYTHON=python3.12 chooses the interpreter of a new .venv;'
	@echo 'TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the smaller torch without CUDA.'

demo: .venv/.installed-demo  ## train on handwritten digits and print a leaderboard
	$(BIN)/trainloom demo

# Most of their time tests wait for servers and processes: four at once keep two cores busy.
test: .venv/.installed-test  ## the tests that finish within minutes
	$(PYTEST) -m 'not slow' -n 4 --dist loadfile

# pytest exits 5 where nothing was selected.
test-slow: .venv/.installed-test  ## the long tests: crashes, chaos
	$(PYTEST) -m slow -n auto --maxprocesses 2 --dist loadfile || [ $$? -eq 5 ]

chaos: .venv/.installed-test  ## workers killed, stopped and cut off at random: make chaos SECONDS=300 BACKEND=mariadb
	CHAOS_SECONDS=$(SECONDS) $(PYTEST) tests/acceptance/test_chaos.py -m slow -s $(if $(BACKEND),-k $(BACKEND))

# Types are checked against the packages that the tests run with: a missing one changes what mypy says.
lint: .venv/.installed-test .venv/.installed-lint  ## style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: .venv/.installed-test .venv/.installed-bench  ## measure speed beside its limits, write benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks

features: .venv/.installed-test  ## every feature with the tests that showed it in the last test runs
	$(BIN)/python -m tests.feature_catalogue

clean:  ## remove what was built and cached; .venv and trained results stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name .venv -prune -o -name .git -prune -o -name .trainloom -prune -o -name __pycache__ -type d -exec rm -rf {} +

# One stamp per set of extras. An interrupted installation leaves .venv/.installing behind, with the process id of its make:
# what it had half written is not trusted, and the environment is made anew.
.venv/.installed-demo: EXTRAS := demo,embedded
.venv/.installed-test: EXTRAS := test
.venv/.installed-lint: EXTRAS := lint
.venv/.installed-bench: EXTRAS := bench
.venv/.installed-%: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'Python 3.11 or newer is needed: name one, as in make PYTHON=python3.12.' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo '$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv).' >&2; exit 1; }
	@! kill -0 "$$(cat .venv/.installing 2>/dev/null)" 2>/dev/null \
		|| { echo 'Another make is installing into .venv: let it finish, or remove .venv if there is none.' >&2; exit 1; }
	@if [ -e .venv/.installing ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo 'Making .venv'; $(PYTHON) -m venv --clear .venv; fi
	@echo 'Installing trainloom[$(EXTRAS)] into .venv; the first time this takes minutes'
	@echo $$PPID > .venv/.installing
	$(PIP_INSTALL) -e '.[$(EXTRAS)]'
	@rm .venv/.installing
	@touch $@
