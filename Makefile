# Two commands to know: make bench, make test.
PYTHON ?= python3
# The container of .devcontainer sets --system-site-packages, for its image has the large packages.
VENV_FLAGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet

.PHONY: bench test lint perf clean

bench: .venv/.bench
	$(BIN)/python run_bench.py

# Three processes, for some tests wait. They and those that they start compile the package once.
test: .venv/.test
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

lint: .venv/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.venv/.bench: pyproject.toml
	$(PYTHON) -m venv $(VENV_FLAGS) .venv
	$(INSTALL) --editable .
	touch $@

.venv/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV_FLAGS) .venv
	$(INSTALL) --editable ".[dev]"
	# Peers that tests and benchmarks compare with. torchattacks asks for an old requests, and adv-lib for visdom, which
	# current setuptools do not build; both do without.
	$(INSTALL) --no-deps torchattacks adv-lib
	touch $@ .venv/.bench

perf: .venv/.test
	for each in attacks corruptions training purification report history schedule anytime precision masked; do $(BIN)/python -m tests.perf.$$each || exit 1; done
	$(BIN)/python -m tests.perf.process pgd

clean:
	rm -rf .venv report
