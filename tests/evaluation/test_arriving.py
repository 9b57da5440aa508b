"""Completions come to the disk one by one, and a run that was killed goes on to the same bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import Commands
from trimtab.errors import TrimtabError
from trimtab.evaluation import generate as module
from trimtab.evaluation.arriving import ArrivingRows
from trimtab.evaluation.generate import Generated
from trimtab.evaluation.own_decoding import OwnDecoding, decoding_asked, own_decoding, read_own
from trimtab.sandbox.generate import preference_data
from trimtab.study.evaluate import RowRange, generate_only

PROMPTS = 7
DRAWN = ["decoding.temperature=1.0", "decoding.max_new_tokens=12", "decoding.batch_size=3", "precision=float32"]


@pytest.fixture
def rows(write_jsonl: Callable[..., Path]) -> str:
    return str(write_jsonl([{"prompt": record.prompt} for record in preference_data("test", PROMPTS, 0)]))


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]


def test_a_killed_run_goes_on_to_the_same_bytes(rows: str, tmp_path: Path, commands: Commands) -> None:
    """Killed before the first completion, between those of a batch, in the middle of one, with all there."""
    sets = [word for setting in DRAWN for word in ("--set", setting)]
    moments = [("arriving", 1), ("arriving", 3), ("sampling", 15), ("arriving", PROMPTS), ("arrived", 1)]
    whole, left = tmp_path / "whole", tmp_path / "left"
    jobs: list[Any] = [["none", 1, whole], ["arriving", 6, left]]
    for number, (moment, count) in enumerate(moments):
        jobs += [[moment, count, tmp_path / str(number)], ["none", 1, tmp_path / str(number)]]
    words = ["generate", "--model", "sandbox:instruct", "--data", rows]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = [
        commands.run(*words, "--out", str(out), *sets, moment=moment, count=count, environment=environment)
        for moment, count, out in jobs
    ]
    assert [one.returncode for one in done] == [0, -9, *[-9, 0] * len(moments)], done[-1].stderr
    expected = (whole / "generations.jsonl").read_bytes()
    assert [row["id"] for row in lines(whole)] == [str(i) for i in range(PROMPTS)]
    for number in range(len(moments)):
        assert (tmp_path / str(number) / "generations.jsonl").read_bytes() == expected
        assert not (tmp_path / str(number) / "generating.json").exists()
    assert "of 7 completions were there already" in "".join(one.stderr for one in done)
    # What a kill leaves: whole lines of the first batch, and two of the second's rows.
    assert len(lines(left)) == 5
    assert {row["id"] for row in lines(left)} >= {"0", "1", "2"}
    by_id = {row["id"]: row for row in lines(whole)}
    assert all(by_id[row["id"]] == row for row in lines(left))


@pytest.fixture
def interrupted(rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that ended after five completions."""
    add = ArrivingRows.add

    def stop(self: ArrivingRows, place: int, generated: Generated) -> None:
        add(self, place, generated)
        if len((tmp_path / "out" / "generations.jsonl").read_bytes().splitlines()) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ArrivingRows, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            generate_only("sandbox:instruct", rows, tmp_path / "out", None, DRAWN)
    return tmp_path / "out"


def test_a_batch_is_decoded_again_only_where_some_of_it_is_missing(
    interrupted: Path, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []
    decode = module._decode_batch

    def counting(*arguments: Any) -> None:
        batches.append(list(arguments[3]))
        decode(*arguments)

    monkeypatch.setattr(module, "_decode_batch", counting)
    generate_only("sandbox:instruct", rows, interrupted, None, DRAWN)
    assert batches == [[3, 4, 5], [6]], "in the rows' order, and the first batch is there"


def test_other_settings_are_refused_or_begin_anew(interrupted: Path, rows: str) -> None:
    other = [*DRAWN, "decoding.seed=1"]
    before = lines(interrupted)
    for sets, part, what in ((other, RowRange(), "decoding"), (DRAWN, RowRange(6), "rows")):
        with pytest.raises(TrimtabError, match=rf"\(its {what} differ\). Choose another --out, or --overwrite\.$"):
            generate_only("sandbox:instruct", rows, interrupted, None, sets, part)
    assert lines(interrupted) == before
    generate_only("sandbox:instruct", rows, interrupted, None, other, replaces=True)
    assert len(lines(interrupted)) == PROMPTS
    kept = {row["id"]: row["completion"] for row in before}
    assert [row for row in lines(interrupted) if kept.get(row["id"], "") == row["completion"]] == []


@pytest.mark.parametrize("damage", ["cut", "spoilt", "another prompt"])
def test_what_is_damaged_is_made_anew(damage: str, interrupted: Path, rows: str) -> None:
    file = interrupted / "generations.jsonl"
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-7])
    elif damage == "spoilt":
        file.write_bytes(content.replace(b'"tokens"', b'"tonkes"', 1))
    else:
        file.write_bytes(content.replace(b'"prompt":"', b'"prompt":"x', 1))
    generate_only("sandbox:instruct", rows, interrupted, None, DRAWN)
    made = file.read_bytes()
    assert set(content.splitlines()) <= set(made.splitlines())
    assert [row["id"] for row in lines(interrupted)] == [str(i) for i in range(PROMPTS)]


# ---- a model's own decoding


def test_a_models_own_sampling_is_read_as_transformers_reads_it() -> None:
    qwen = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    assert read_own(qwen) == OwnDecoding(
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20}, {"repetition_penalty": 1.05}
    )
    assert read_own({"do_sample": True}) == OwnDecoding({"temperature": 1.0, "top_p": 1.0, "top_k": 50})
    assert read_own({"temperature": 0.7, "eos_token_id": 2, "repetition_penalty": 1.0}) == OwnDecoding()
    assert read_own({"do_sample": True, "temperature": 0}) == OwnDecoding()
    assert read_own({"do_sample": True, "top_p": "high"}) == OwnDecoding()


def test_what_is_set_comes_before_a_models_own() -> None:
    own = OwnDecoding({"temperature": 0.7, "top_p": 0.8, "top_k": 20}, {"repetition_penalty": 1.05})
    assert decoding_asked({}, own) == (
        {"strategy": "sample", "temperature": 0.7, "top_p": 0.8, "top_k": 20},
        "the model's own; not followed: repetition_penalty=1.05",
    )
    assert decoding_asked({}, OwnDecoding()) == ({"strategy": "greedy"}, "the model names no sampling")
    assert decoding_asked({"strategy": "greedy"}, own) == ({"strategy": "greedy"}, "as set")
    assert decoding_asked({"temperature": 1.0}, own)[0] == {
        "strategy": "sample", "temperature": 1.0, "top_p": 0.8, "top_k": 20,
    }  # fmt: skip
    assert decoding_asked({"top_p": 0.5}, OwnDecoding())[0] == {"strategy": "sample", "top_p": 0.5}
    assert decoding_asked({"strategy": "beam", "num_beams": 2}, own)[0] == {"strategy": "beam", "num_beams": 2}


def test_generate_decodes_as_the_model_is_meant_to_be(
    rows: str, tmp_path: Path, tiny_model_dir: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, few = tiny_model_dir(initializer_range=0.2), ["decoding.max_new_tokens=4", "precision=float32"]
    own = json.loads((folder / "generation_config.json").read_text())
    greedy = lines(generate_only(str(folder), rows, tmp_path / "greedy", None, few).parent)
    assert "7 prompts, greedy (the model names no sampling), at most 4 tokens each\n" in capsys.readouterr().err
    (folder / "generation_config.json").write_text(json.dumps(own | {"do_sample": True, "top_k": 1}))
    assert own_decoding(str(folder)).sampling == {"temperature": 1.0, "top_p": 1.0, "top_k": 1}
    of_one = lines(generate_only(str(folder), rows, tmp_path / "one", None, few).parent)
    said = capsys.readouterr().err
    assert "7 prompts, sampling at temperature 1, top-k 1, seed 0 (the model's own), at most 4" in said
    assert of_one == greedy, "of one token there is one choice"
    of_all = lines(generate_only(str(folder), rows, tmp_path / "all", None, [*few, "decoding.top_k=0"]).parent)
    assert of_all != greedy
