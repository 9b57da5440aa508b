#!/bin/bash
# In Argilla a person saves a draft, discards a record or submits an answer; only what is submitted is meant. What
# `Records.to_json`, `to_dict` and `to_list` export has the answers of all three alike, without the status. Needs no
# Argilla server. Exits 0 while it is so.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q argilla==2.8.0 requests==2.32.5
cd "$folder"; venv/bin/python - <<'PY'
import json
import uuid
from importlib.metadata import version

import argilla as rg
from argilla.records._dataset_records import DatasetRecords
from argilla.records._io import JsonIO

people = [uuid.UUID(int=number) for number in range(3)]
record = rg.Record(
    fields={"prompt": "Name a prime."},
    responses=[
        rg.Response("preference", answer, user_id=person, status=status)
        for answer, person, status in zip(
            ("first", "second", "second"), people, ("submitted", "draft", "discarded"), strict=True
        )
    ],
)
assert [str(response.status.value) for response in record.responses] == ["submitted", "draft", "discarded"]
JsonIO.to_json([record], "records.json")
[exported] = json.load(open("records.json"))
print("argilla", version("argilla"))
print(json.dumps(exported["responses"]))
print(json.dumps(record.to_dict()["responses"], default=str))
text = json.dumps(exported["responses"])
assert [answer["value"] for answer in exported["responses"]["preference"]] == ["first", "second", "second"]
assert not any(word in text for word in ("status", "submitted", "draft", "discarded"))
PY
