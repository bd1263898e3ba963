.DEFAULT_GOAL := help
.PHONY: help demo test lint fix up down status lock clean

STARTED := $(shell date +%s)
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) --version 2>/dev/null),$(p))))
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# Byte code halves the start of every Airflow process; some shells switch it off.
unexport PYTHONDONTWRITEBYTECODE

help:      ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:[^#]*##/:/'

demo: $(VENV)/.local  ## live the electricity story on a real stack; DEMO_APPROVE=me lets you approve
	@DEMO_STARTED=$(STARTED) $(BIN)/python -m include.electricity.story

test: lint programs  ## set up, then lint, types, import contracts and all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev  ## style, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases include dags

fix: $(VENV)/.dev  ## format, and repair what can be repaired
	-$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

up: $(VENV)/.local  ## start PostgreSQL, MLflow and Airflow in .local, with the Dags of dags/, or DAGS=folder
	$(BIN)/python -m airflow_mlops.local up $(if $(DAGS),--dags $(DAGS))

down:      ## stop what make up started
	$(BIN)/python -m airflow_mlops.local down

status:    ## show what runs, and where its log is
	$(BIN)/python -m airflow_mlops.local status

lock: $(VENV)/.dev  ## write constraints.txt anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --all-extras --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url -o constraints.txt pyproject.toml

clean:     ## stop everything, and remove what was made here
	-[ -x $(BIN)/python ] && for home in .local .local/demo; do \
	  $(BIN)/python -m airflow_mlops.local down --home $$home; done
	rm -rf .local $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache dist *.egg-info

.PHONY: programs
programs:
	@command -v docker-compose >/dev/null || ! command -v apt-get >/dev/null || \
	  { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq docker-compose >/dev/null; }

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv

$(VENV)/.local $(VENV)/.dev: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/uv
	$(INSTALL) -e '.[$*]'
	@touch $@
