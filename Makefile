# Thin: a virtual environment from the hash-locked requirements, then `instep` or `pytest`.
PYTHON ?= python3.11
BIN := .venv/bin
ARGS ?=

.PHONY: demo test lint setup lock bench golden difftest soak

setup: .venv/.ready

.venv/.ready: requirements/dev.txt pyproject.toml hatch_build.py $(wildcard schemas/instep_schemas/*.p[yx][xd])
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -c "from instep_schemas.built import told; print('transcoder:', told())"
	touch $@

demo: setup
	$(BIN)/instep demo $(ARGS)

test: setup
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses 2 --dist loadfile)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/budget.py

golden: setup
	$(BIN)/python -m tests.golden $(or $(DIR),tests/golden) $(ARGS)

difftest: setup
	$(BIN)/python -m tests.streams.flows.difftest $(or $(DIR),tests/streams/flows/difftest/shop) $(or $(ROUNDS),20) $(SEED)

bench: setup
	$(BIN)/python -m benchmarks.$(or $(OF),capture) $(ARGS)

soak: setup
	KILLS=$(or $(KILLS),1000) $(BIN)/python -m pytest -s --timeout 0 tests/streams/capture/test_kill.py
	ROUNDS=$(or $(ROUNDS),400) SEEDS=$(or $(SEEDS),5) SELECTS=$(or $(SELECTS),2000) $(BIN)/python -m pytest --timeout 0 tests/streams/flows/test_difftest.py

UV_LOCK := uv pip compile pyproject.toml --generate-hashes --no-header --no-emit-index-url --no-annotate --python-version 3.11

lock:
	$(UV_LOCK) --extra embedded --group dev -o requirements/dev.txt
	$(UV_LOCK) -o requirements/runtime.txt
