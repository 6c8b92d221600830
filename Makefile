# make run          the sigmoid-slope experiment, from the shipped tables to runs/sigmoid_slope/, and the
#                   paper's own preset beside it, to runs/sigmoid_slope_paper/
# make test         lint, types, the whole suite and the doctests
# make test-lowest  the suite with the lowest versions that pyproject.toml allows, in their own environment
# make test-wheel   the wheel, installed with each extra into an empty environment, runs its examples
# make fuzz         the property tests of damaged files and odd settings, fifteen times as long (at most 30 minutes)
# make faults       every experiment killed, stopped and starved: the table of docs/reliability.md
# make docs         the site, into site/, in its own environment; a warning is an error
# make bench        speed against the peers, in their own environment, into runs/benchmark*/
#
# Another Python: make test PYTHON=python3.13 VENV=.venv-3.13

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
LOWEST = .venv-lowest/bin
BENCH = .venv-bench/bin
PYTEST = -m pytest -q --numprocesses=auto --dist=loadfile --doctest-modules spd_jax tests

.PHONY: run test test-lowest test-wheel fuzz faults docs bench clean

run: $(VENV)/ready
	$(BIN)/python -m experiments.sigmoid_slope --preset=paper --workdir=runs/sigmoid_slope_paper
	$(BIN)/python -m experiments.sigmoid_slope --preset=mnist_blind --workdir=runs/sigmoid_slope

test: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python $(PYTEST)
	@echo "lint, types, tests and doctests pass"

test-lowest: .venv-lowest/ready
	$(LOWEST)/python $(PYTEST)
	@echo "tests and doctests pass with the lowest versions"

test-wheel:
	$(PYTHON) tests/wheel.py

fuzz: $(VENV)/ready
	SPD_JAX_FUZZ=15 timeout --signal=INT 1800 $(BIN)/python -m pytest -q tests/test_fuzz_folders.py tests/test_fuzz_settings.py

faults: $(VENV)/ready
	timeout 5400 $(BIN)/python tests/faults.py

docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet

bench: .venv-bench/ready
	$(BENCH)/python -m experiments.benchmark --suite=sigmoid --workdir=runs/benchmark
	$(BENCH)/python -m experiments.benchmark --suite=rnn_cell --workdir=runs/benchmark_rnn_cell
	$(BENCH)/python -m experiments.benchmark --suite=image_cells --workdir=runs/benchmark_image_cells
	$(BENCH)/python -m experiments.benchmark --suite=forward_search --workdir=runs/benchmark_forward_search

clean:
	rm -rf site .venv .venv-* .jax_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[experiments,dev]'
	touch $@

# The lowest versions have wheels for the lowest Python; what they depend on is the newest.
.venv-lowest/ready: PYTHON = python3.11
.venv-lowest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct \
		--editable '.[experiments,dev]'
	touch $@

.venv-docs/ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

.venv-bench/ready: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/pip install --quiet --disable-pip-version-check --retries 0 --timeout 10 \
		--index-url https://download.pytorch.org/whl/cpu torch \
		|| echo "no CPU build of PyTorch is reachable: the plain one follows, several GB on Linux"
	$(BENCH)/pip install --quiet --disable-pip-version-check --editable '.[experiments,peers,dev]'
	touch $@
