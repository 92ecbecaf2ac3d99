VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check

$(STAMP): pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)
	@$(BIN)/zts demo $(ARGS)

test: $(STAMP)
	@tests/fetch_peers.sh
	$(BIN)/pytest $(ARGS)
