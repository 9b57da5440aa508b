#!/bin/bash
# A config that transformers 5 saves has the rotary base only inside rope_parameters. transformers 4 looks for rope_theta,
# takes its default of 10,000, and says nothing. Exits 0 while it does.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/new"; "$folder/new/bin/pip" install -q transformers==5.23.0
python3 -m venv "$folder/old"; "$folder/old/bin/pip" install -q transformers==4.57.6
cd "$folder"; export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
new/bin/python - <<'PY'
import transformers
config = transformers.Qwen2Config(rope_theta=1_000_000.0, vocab_size=64, hidden_size=8, num_attention_heads=2)
config.save_pretrained("model")
print("saved by", transformers.__version__, config.rope_parameters)
PY
old/bin/python - <<'PY'
import sys
import transformers
config = transformers.AutoConfig.from_pretrained("model")
print("read by", transformers.__version__, "rope_theta", config.rope_theta)
sys.exit(config.rope_theta != 10_000.0)
PY
