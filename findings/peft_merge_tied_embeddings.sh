#!/usr/bin/env bash
# peft's merge of an adapter on one of two tied ends changes both: the merged model is another function than the adapted one.
# Exits 0 while that is so, 1 once it is not.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.13.0 transformers==5.23.0 peft==0.21.2
"$folder/env/bin/python" - 2>/dev/null <<'P'
import sys

import peft
import torch
import transformers
from transformers import Qwen2Config, Qwen2ForCausalLM

print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
differ = {}
for tied in (True, False):
    for target in ("q_proj", "lm_head", "embed_tokens"):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, tie_word_embeddings=tied,
            )
        )
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=[target]))
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:  # as after training
                    weight.add_(0.1 * torch.randn_like(weight))
            before = adapted.eval()(input_ids=ids).logits.log_softmax(-1)
            after = adapted.merge_and_unload()(input_ids=ids).logits.log_softmax(-1)
        differ[tied, target] = float((before - after).abs().max())
        ends = "tied" if tied else "untied"
        print(f"{ends:6} {target:12} merging changes log-probabilities by at most {differ[tied, target]:.2e} nats")
wrong = {key for key, nats in differ.items() if nats > 0.01}
sys.exit(wrong != {(True, "lm_head"), (True, "embed_tokens")})
P
