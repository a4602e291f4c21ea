# A fresh machine needs python3 (3.11 or later) and make. Every target that runs Python
# first brings .venv up to date with pyproject.toml and constraints.txt.

PYTHON3 ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
INSTALL := $(PYTHON) $(PIP_INSTALL) --constraint constraints.txt
INSTALLED := $(VENV)/.installed
INSTALLED_DOC := $(VENV)/.installed-doc

# Packages that `make oldest` takes from constraints.txt instead of at their lower bound.
# Older CPU builds of torch are not on every index: `make oldest KEEP=` uses the bound.
KEEP ?= torch
VENV_OLDEST := .venv-oldest
PYTHON_OLDEST := $(VENV_OLDEST)/bin/python
INSTALL_OLDEST := $(PYTHON_OLDEST) $(PIP_INSTALL) --constraint $(VENV_OLDEST)/constraints.txt
INSTALLED_OLDEST := $(VENV_OLDEST)/.installed

# What builds and checks the files of a release.
PYTHON_DIST := build/venv-dist/bin/python

BENCHMARKS := uci_regression uci121 gram scale training added_neuron resnet_basis certify \
    certify_networks sweeps peer_tests estimator_checks refit_vs_networks small_data tables refit_boosters \
    predict distributions

export MPLBACKEND := Agg

.PHONY: help demo test coverage oldest lint type format bench bench-full bench-peers data doc dist clean

help:
	@echo "make demo        the quickstart: table, certificate, build/quickstart.png"
	@echo "make test        lint, types and the test suite"
	@echo "make coverage    the test suite, with branch coverage"
	@echo "make oldest      the test suite on the lower bounds of pyproject.toml, in .venv-oldest"
	@echo "make lint        ruff: format and rules"
	@echo "make type        mypy on the package"
	@echo "make format      let ruff rewrite what it can"
	@echo "make bench       all benchmarks, quick versions"
	@echo "make bench-full  all benchmarks, in full"
	@echo "make bench-peers installs the rivals that only benchmarks need"
	@echo "make doc         the documentation, in build/html"
	@echo "make dist        wheel and sdist, checked, in dist"
	@echo "make clean       remove what the targets above have written, save .venv*"

demo: $(INSTALLED)
	@mkdir -p build
	$(PYTHON) examples/predict/plot_quickstart.py build/quickstart.png

# The tests' problems are tiny: threads would wait for each other, many times longer than
# they work.
test coverage oldest: export OMP_NUM_THREADS := 1

# One process per core; each file of tests stays in one of them.
test: lint type
	$(PYTHON) -m pytest --numprocesses auto --dist loadfile

# Apart from `test`: tracing each line makes the training loops several times slower.
coverage: $(INSTALLED)
	$(PYTHON) -m pytest --cov --cov-report=term

oldest: $(INSTALLED_OLDEST)
	$(PYTHON_OLDEST) -m pytest --numprocesses auto --dist loadfile

lint: $(INSTALLED)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

type: $(INSTALLED)
	$(PYTHON) -m mypy

format: $(INSTALLED)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench: data $(INSTALLED)
	@set -e; for name in $(BENCHMARKS); do \
	    echo "== $$name (quick)"; $(PYTHON) benchmarks/$$name.py --quick; done

bench-peers: $(INSTALLED)
	$(INSTALL) --no-build-isolation --editable '.[peers]'

bench-full: data $(INSTALLED)
	@set -e; for name in $(BENCHMARKS); do \
	    echo "== $$name"; $(PYTHON) benchmarks/$$name.py; done

data:
	@test -n "$$SKLEARN_PGB_DATA" || { \
	    echo "The benchmarks read the folder in SKLEARN_PGB_DATA, which is not set:" >&2; \
	    echo "  python benchmarks/get_data.py data" >&2; \
	    echo "  make bench SKLEARN_PGB_DATA=data" >&2; exit 1; }
	@test -d "$$SKLEARN_PGB_DATA" || { \
	    echo "SKLEARN_PGB_DATA must be a folder, got $$SKLEARN_PGB_DATA" >&2; exit 1; }

doc: $(INSTALLED_DOC)
	$(PYTHON) -m sphinx -W --keep-going -b html doc build/html

# Without isolation, so that the build backend is the one of constraints.txt.
dist: $(INSTALLED) $(PYTHON_DIST)
	rm -rf dist
	$(PYTHON) -m pytest tests/test_distribution.py
	$(PYTHON_DIST) -m build --no-isolation
	$(PYTHON_DIST) -m twine check --strict dist/*

clean:
	rm -rf build dist doc/api doc/gallery doc/sg_execution_times.rst .coverage
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find sklearn_pgb tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

# The build backend is installed first, so that its version is constrained as well.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, got " + sys.version.split()[0] + ". Name another one: make PYTHON3=python3.12")'
	test -x $(PYTHON) || $(PYTHON3) -m venv $(VENV)
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation --editable '.[test,lint]'
	@touch $@

$(INSTALLED_DOC): $(INSTALLED)
	$(INSTALL) --no-build-isolation --editable '.[doc]'
	@touch $@

$(INSTALLED_OLDEST): pyproject.toml constraints.txt tools/lower_bounds.py
	test -x $(PYTHON_OLDEST) || $(PYTHON3) -m venv $(VENV_OLDEST)
	$(PYTHON_OLDEST) tools/lower_bounds.py --keep $(KEEP) > $(VENV_OLDEST)/constraints.txt
	$(INSTALL_OLDEST) hatchling editables
	$(INSTALL_OLDEST) --no-build-isolation --editable '.[test]'
	@touch $@

$(PYTHON_DIST): constraints.txt
	$(PYTHON3) -m venv build/venv-dist
	$(PYTHON_DIST) $(PIP_INSTALL) --constraint constraints.txt build hatchling twine
	@touch $@
