# `make run` and `make test` set up a fresh machine: Python 3.11 or newer, make, and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.locked

# Every daemon and every command of the tests would compile the whole host anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup run test lint format cover bench crash soak lock clean

setup: $(STAMP)

$(STAMP): config/locks/dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r config/locks/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

run: $(STAMP)
	$(BIN)/python -m host.cli.bundle --state var
	exec $(BIN)/busbar run --config config/busbar.toml

# Two processes, a file each at a time: most of what the tests of the daemon do is wait. The long files come first.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Branch coverage of the suite, the daemons and workers that it starts included.
cover: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
		--cov host --cov plugin_sdk --cov-branch --cov-report term-missing:skip-covered

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m benchmarks all

# The crash test of the suite, a thousand times instead of sixty; some half an hour.
crash: $(STAMP)
	CRASH_ROUNDS=1000 $(BIN)/python -m pytest tests/e2e/test_crash.py --timeout 7200

# The soak of the suite, ten minutes instead of twenty seconds.
soak: $(STAMP)
	SOAK_SECONDS=600 $(BIN)/python -m pytest tests/e2e/test_soak.py --timeout 3600 -s

# The locks hold versions and hashes and name no index host.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header pyproject.toml --upgrade

lock: $(STAMP)
	$(LOCK) --output-file config/locks/run.txt
	$(LOCK) --extra dev --output-file config/locks/dev.txt

clean:
	rm -rf var .pytest_cache .mypy_cache .ruff_cache
