#!/bin/bash
# AutoTokenizer of transformers 5 beside a Qwen2 config reads tokenizer.json's vocabulary and merges but splits texts in
# Qwen2's way, whatever tokenizer.json says of splitting: other ids, no word. Exits 0 while it does.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"; "$folder/venv/bin/pip" install -q transformers==5.23.0 tokenizers==0.23.3
cd "$folder"; export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python - <<'PY'
import json, pathlib, sys
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
made = Tokenizer(models.BPE())
made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # GPT-2's splitting: digits stay together
made.decoder = decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                              special_tokens=["<|endoftext|>"], show_progress=False)
made.train_from_iterator(["in 1234 and 1234 again, 1234"] * 20, trainer)
folder = pathlib.Path("model"); folder.mkdir()
made.save("model/tokenizer.json")
(folder / "tokenizer_config.json").write_text(json.dumps(
    {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}))
(folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
read = transformers.AutoTokenizer.from_pretrained("model")
by_file = made.encode("in 1234", add_special_tokens=False).ids
by_auto = read("in 1234", add_special_tokens=False)["input_ids"]
print("transformers", transformers.__version__, "class", type(read).__name__)
print("tokenizer.json:", [made.id_to_token(i) for i in by_file])
print("AutoTokenizer: ", read.convert_ids_to_tokens(by_auto))
sys.exit(by_file == by_auto)
PY
