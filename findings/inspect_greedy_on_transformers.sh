#!/bin/bash
# inspect-ai takes `--temperature 0` for any model, and one expects greedy decoding. Its provider of local
# transformers models hands the 0 on beside do_sample=True: the evaluation ends with transformers' ValueError,
# and the command exits with 0. Without a temperature it samples. Greedy there is `-M do_sample=False`, which is the
# provider's own. Exits 0 while it does so.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q inspect-ai==0.3.285 torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
cd "$folder"
cat > tiny.py <<'PY'
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
words = {word: number for number, word in enumerate("<end> <other> one two three four five six seven eight".split())}
plain = Tokenizer(models.WordLevel(words, unk_token="<other>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", pad_token="<end>", unk_token="<other>")
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
tokenizer.save_pretrained("model")
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes, eos_token_id=0, pad_token_id=0)).save_pretrained("model")
PY
cat > count.py <<'PY'
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


@task
def count():
    asked = [Sample(input="one two three", target="four") for _ in range(8)]
    return Task(dataset=asked, solver=generate(), scorer=includes())
PY
cat > look.py <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

from inspect_ai.log import read_eval_log

found = {}
for place in ("zero", "none", "greedy"):
    [file] = Path(place).iterdir()
    log = read_eval_log(str(file))
    if log.status == "success":
        found[place] = sorted({sample.output.completion for sample in log.samples})
    else:
        found[place] = log.error.message
print("inspect-ai", version("inspect_ai"), found)
sys.exit(not ("strictly positive" in found["zero"] and len(found["none"]) > 1 == len(found["greedy"])))
PY
venv/bin/python tiny.py
try() { # where the log goes, and the arguments
  place=$1; shift
  HF_HUB_OFFLINE=1 venv/bin/inspect eval count.py --model hf/local -M model_path=model -M device=cpu --max-tokens 12 \
    --log-dir "$place" --display none "$@" > "$place.txt" 2>&1
}
try zero --temperature 0   # its exit status is 0, or set -e would end this here
try none
try greedy -M do_sample=False
venv/bin/python look.py
