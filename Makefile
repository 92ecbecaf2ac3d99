# make demo | test | check | hw-test; ARGS=… goes to `zts demo` or to pytest. make fuzz: SECONDS=… for each of TARGETS=…. make mutants.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed
STUBS := $(VENV)/micropython-stubs
# Where it is set, every `zts` that a test starts would be compiled anew: a fifth of its start.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check fuzz soak mutants hw-test hw-soak
.DELETE_ON_ERROR:

$(STAMP): pyproject.toml
	@python3 -c 'import sys; sys.exit("ZTS needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	@python3 -m venv $(VENV) || { echo 'make: python3 -m venv failed: on Debian, apt-get install python3-venv' >&2; exit 1; }
	$(PIP) install -e '.[dev]'
	@touch $@

$(STUBS): edge/stubs.txt | $(STAMP)
	@rm -rf $@
	$(PIP) install --no-compile --target $@ -r $<
	@touch $@

demo: $(STAMP)
	@$(BIN)/zts demo $(ARGS)

# Most of them wait, so four processes keep two cores busy; files with long tests stand first, so that none is left alone at the end.
test: $(STAMP)
	@tests/fetch_peers.sh
	PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=10 $(ARGS)

# What it finds stays in .fuzz/: inputs of new ways through the code, and such as break a target's promise.
SECONDS := 60
LONG := tests/e2e/test_board_mutations.py tests/host/test_session_model.py tests/host/test_broker.py::test_a_hundred_thousand_fuzzed_packets
TARGETS := $(filter-out feed hostile run,$(patsubst tests/fuzz/%.py,%,$(wildcard tests/fuzz/*.py)))
fuzz: $(STAMP)
	@set -e; for target in $(TARGETS); do echo "== $$target"; $(BIN)/python tests/fuzz/run.py $$target $(SECONDS) .fuzz; done
	ZTS_MUTATIONS=1000000 ZTS_RUNS=2500 PATH="$$PATH:/usr/sbin:/sbin" $(BIN)/pytest -rP $(LONG)

# Ten seconds of junk at devices that are at work.
soak: $(STAMP)
	ZTS_SOAK=1 $(BIN)/pytest tests/e2e/test_attack_flood.py

# A board: ARGS="--port /dev/ttyUSB0 --address ADDRESS --wifi SSID --password-file FILE", else a virtual one.
hw-test: $(STAMP)
	$(BIN)/pytest hw-tests $(ARGS)

# Half an hour of connections to it.
hw-soak: $(STAMP)
	ZTS_SOAK_S=1800 $(BIN)/pytest hw-tests -k test_soak $(ARGS)

# How many changes of what decides who may do what are noticed by its tests; four minutes.
mutants: $(STAMP)
	$(PIP) install -e '.[mutants]'
	$(BIN)/python tests/mutants.py

# Runs one step and says how many seconds it took.
define step
@printf '%-24s' '$(1)'; TIMEFORMAT='%1R s'; time { out=$$($(2) 2>&1) || { code=$$?; printf 'FAILED\n%s\n' "$$out"; exit $$code; }; }
endef

check: $(STAMP) $(STUBS)
	$(call step,format,$(BIN)/ruff format --check)
	$(call step,lint,$(BIN)/ruff check)
	$(call step,types of the hosts,$(BIN)/mypy)
	$(call step,types of edge/,$(BIN)/mypy --config-file edge/mypy.ini)
	$(call step,types of the tests,$(BIN)/mypy --config-file tests/mypy.ini)
	$(call step,import rules,$(BIN)/lint-imports --no-logo)
	@TIMEFORMAT='tests                   %1R s'; time $(MAKE) --no-print-directory test
