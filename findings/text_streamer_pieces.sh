#!/bin/bash
# transformers' TextStreamer: behind a new line it decodes anew, and a sentencepiece tokenizer then leaves out a space
# of what was indented; text without spaces is held back to its end. Exits 0 while it does.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
cd "$folder"; HF_HOME="$folder/hf" venv/bin/python - <<'PY'
import sys
import numpy, transformers
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.generation.streamers import TextStreamer

words = ["<unk>", "▁def", "▁f():", "\n", "▁▁▁", "▁return", *"ありがとう"]
tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
# Llama 2's decoder, as its tokenizer.json has it.
tokenizer.decoder = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)
fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class Collecting(TextStreamer):
    def on_finalized_text(self, text, stream_end=False):
        pieces.append(text)


def streamed(*tokens):
    pieces.clear()
    streamer = Collecting(fast)
    ids = [words.index(token) for token in tokens]
    for i in ids:
        streamer.put(numpy.array([i]))
    streamer.end()
    return fast.decode(ids), list(pieces)


pieces = []
print("transformers", transformers.__version__)
code, code_pieces = streamed("▁def", "▁f():", "\n", "▁▁▁", "▁return")
thanks, thanks_pieces = streamed(*"ありがとう")
print("decode:  ", repr(code), "\nstreamed:", repr("".join(code_pieces)))
print("decode:  ", repr(thanks), "\nstreamed:", thanks_pieces, "(one piece a token, and the last at the end)")
lost = code == "def f():\n    return" and "".join(code_pieces) == "def f():\n   return"
held = thanks_pieces == ["", "", "", "", "", "ありがとう"]
sys.exit(not (lost and held))
PY
