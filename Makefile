# make run    the sigmoid-slope experiment, from the shipped table to runs/sigmoid_slope/
# make test   lint, types, the whole suite and the doctests
# make fuzz   the property tests of damaged files and odd settings, ten times as long (30 minutes)
# make faults every experiment killed, stopped and starved: the table of docs/reliability.md
# make bench  speed against the peers, in their own environment, into runs/benchmark*/

PYTHON ?= python3
BIN = .venv/bin
BENCH = .venv-bench/bin

.PHONY: run test fuzz faults bench clean

run: .venv/ready
	$(BIN)/python -m experiments.sigmoid_slope --workdir=runs/sigmoid_slope

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --numprocesses=auto --doctest-modules spd_jax tests
	@echo "lint, types, tests and doctests pass"

fuzz: .venv/ready
	SPD_JAX_FUZZ=10 timeout 1800 $(BIN)/python -m pytest -q tests/test_fuzz_folders.py tests/test_fuzz_settings.py

faults: .venv/ready
	timeout 5400 $(BIN)/python tests/faults.py

bench: .venv-bench/ready
	$(BENCH)/python -m experiments.benchmark --suite=sigmoid --workdir=runs/benchmark
	$(BENCH)/python -m experiments.benchmark --suite=rnn_cell --workdir=runs/benchmark_rnn_cell

clean:
	rm -rf .venv .venv-bench .jax_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[experiments,dev]'
	touch $@

.venv-bench/ready: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/pip install --quiet --disable-pip-version-check --retries 0 --timeout 10 \
		--index-url https://download.pytorch.org/whl/cpu torch \
		|| echo "no CPU build of PyTorch is reachable: the plain one follows, several GB on Linux"
	$(BENCH)/pip install --quiet --disable-pip-version-check --editable '.[experiments,peers,dev]'
	touch $@
