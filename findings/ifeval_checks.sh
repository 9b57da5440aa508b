#!/bin/bash
# IFEval's checkers (if-verifiable, the same code as in lm-eval 0.4.13) on valid input: the letter "#" that
# prompt 1122 asks for becomes one drawn at random, digits pass as Hindi, and "A cat." has the keyword "C++". Exits 0 while so.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"; "$folder/venv/bin/pip" install -q --no-deps if-verifiable==0.1.2 langdetect==1.0.9 six==1.17.0 \
  immutabledict==4.3.1 nltk==3.10.4 defusedxml==0.7.1 click==8.5.1 joblib==1.6.0 regex==2026.11.15 tqdm==4.70.1
cd "$folder"
venv/bin/python - <<'PY'
import importlib.metadata, logging, sys, types
sys.modules["datasets"] = types.SimpleNamespace(load_dataset=None)  # the package's own data are not read
logging.disable()
from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
print("if-verifiable", importlib.metadata.version("if-verifiable"))
letters = set()
for _ in range(50):
    checker = INSTRUCTION_DICT["keywords:letter_frequency"]("keywords:letter_frequency")
    checker.build_description(letter="#", let_frequency=4, let_relation="at least")
    letters.add(checker.get_instruction_args()["letter"])
print("asked for '#', counted:", "".join(sorted(letters)))
checker = INSTRUCTION_DICT["language:response_language"]("language:response_language")
checker.build_description(language="hi")
hindi = checker.check_following("12345")
print("12345 is in Hindi:", hindi)
checker = INSTRUCTION_DICT["keywords:existence"]("keywords:existence")
checker.build_description(keywords=["C++"])
cat = checker.check_following("A cat.")
print("A cat. has the keyword C++:", cat)
sys.exit(not (len(letters) > 5 and "#" not in letters and hindi and cat))
PY
