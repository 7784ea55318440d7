# Two commands do everything: `make demo` shows the main job, `make test` runs all the tests. Both build their own environment.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/
READY  := $(VENV)/.ready

.PHONY: help install demo test unit lint format bench lock clean

help:
	@echo "make demo    four nodes on loopback do the main job on real data"
	@echo "make test    lint, types, floors and every test (full suite: as root on Debian, see .ci/run)"
	@echo "make unit    the quick tests: rules and adapters, no daemons"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make format  let ruff put the code in order"
	@echo "make bench   the figures of docs/performance.md"
	@echo "make lock    resolve requirements.lock anew"

install: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cached needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	@test -x $(RUN)python || $(PYTHON) -m venv $(VENV)
	@echo "installing locked dependencies into $(VENV) ..."
	@$(RUN)python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(RUN)python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(RUN)python -m compileall -q cached cli
	@touch $(READY)

demo: $(READY)
	@$(RUN)python -m bench.demo

# Most daemon tests wait for other processes: more workers than processors pay.
JOBS ?= 3

test: lint
	$(RUN)python -m pytest -n $(JOBS) --dist loadfile

unit: $(READY)
	$(RUN)python -m pytest -m "not daemon and not crash and not root"

lint: $(READY)
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)mypy
	$(RUN)lint-imports

format: $(READY)
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

bench: $(READY)
	$(RUN)python -m bench

lock:
	$(PYTHON) -m uv pip compile pyproject.toml --extra daemon --extra dev --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11 -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
