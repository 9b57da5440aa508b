#!/bin/bash
# A column of JSONL that is text in some rows and a list in others: `datasets` reads the texts as JSON, and what its
# to_parquet writes is, for other readers, JSON source. Exits 0 while it does.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1
cd "$folder"; HF_HOME="$folder/hf" venv/bin/python - <<'PY'
import json, pathlib, sys
import datasets, pandas, pyarrow
import pyarrow.parquet as pq
rows = [{"answer": "42"}, {"answer": "null"}, {"answer": "plain"}, {"answer": ["a list"]}]
pathlib.Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
data = datasets.load_dataset("json", data_files="rows.jsonl", split="train")
data.to_parquet("rows.parquet")
read = [row["answer"] for row in data]
arrow = pq.read_table("rows.parquet").column("answer").to_pylist()
frame = pandas.read_parquet("rows.parquet")["answer"].tolist()
print("datasets", datasets.__version__, "pyarrow", pyarrow.__version__, "pandas", pandas.__version__)
print("written:           ", [row["answer"] for row in rows])
print("datasets:          ", read, data.features)
print("parquet by pyarrow:", arrow)
print("parquet by pandas: ", frame)
sys.exit(not (read[:3] == [42, None, "plain"] and arrow[2] == '"plain"'))
PY
