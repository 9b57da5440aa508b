"""A whole study, small: everything on disk, nothing done twice, killed anywhere the same results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from commands import Commands
from study.same_results import but_for_the_date
from training.toy import write_model
from trimtab.data.parsing import apply_overrides, parse
from trimtab.data.split_groups import UNDESIRABLE
from trimtab.errors import TrimtabError
from trimtab.evaluation.results import Results
from trimtab.recipe import Recipe
from trimtab.report.answers import read_answers
from trimtab.stopping import SENTENCE
from trimtab.study.run import run_study

STAGE = {"batch_size": 4, "max_steps": 4, "evaluation_interval": 2, "logging_interval": 1}


def recipe(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "model": str(model),
        "opponent": str(model),
        "judge": "gold",
        "sandbox": {"train_rows": 24, "validation_rows": 8, "test_rows": 12},
        "sft": {"learning_rate": 1e-3, **STAGE},
        "dpo": {"learning_rate": 1e-3, **STAGE},
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 12}},
        **changes,
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("study") / "model")


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    out = tmp_path_factory.mktemp("study") / "run"
    return out, run_study(parse(Recipe, recipe(model), "test"), out)


def test_results_follow_the_contract(done: tuple[Path, Results]) -> None:
    value = json.loads((done[0] / "results.json").read_text())
    assert value["schema_version"] == 1
    assert list(value["methods"]) == ["base", "sft", "dpo"]
    for name, method in value["methods"].items():
        rate = method["win_rate"]
        if name != "base":
            assert rate["n"] == 12
            assert rate["strict"] <= rate["ties_half"] <= rate["ties_as_wins"]
            assert rate["ci95"][0] <= rate["ties_half"] <= rate["ci95"][1]
        assert {"1", "2", "4", "signature"} <= set(method["bleu"])
        assert method["perplexity"] > 1
    pairs = {(c["a"], c["b"], c["metric"]) for c in value["comparisons"]}
    assert ("dpo", "sft", "win_rate") in pairs
    assert value["audit"] is not None


def test_the_opponent_itself_has_no_win_rate(done: tuple[Path, Results]) -> None:
    """base is the opponent here; the browser of completions knows what the others won of it."""
    base = done[1].methods["base"]
    assert done[1].opponent_method == "base"
    assert (base.value("win_rate"), base.win_counts) == (None, None)
    answers = read_answers(done[0], "base")
    assert answers is not None
    assert answers.methods == ["base", "sft", "dpo"]
    won = [prompt.cells["dpo"].outcome or 0.0 for prompt in answers.prompts]
    assert sum(won) / 12 == pytest.approx(done[1].methods["dpo"].value("win_rate"))
    assert {prompt.cells["base"].outcome for prompt in answers.prompts} == {None}


def test_the_folder_is_as_described(done: tuple[Path, Results]) -> None:
    out = done[0]
    for name in ("recipe.yaml", "environment.json", "results.json", "report.html"):
        assert (out / name).stat().st_size > 0
    for stage in ("sft", "dpo"):
        folder = out / "seed-0" / "stages" / stage
        assert {"stage.json", "data.json", "metrics.jsonl", "best", "done.json"} <= {
            p.name for p in folder.iterdir()
        }
    assert (out / "seed-0" / "evaluation" / "dpo" / "generations.jsonl").is_file()
    assert list((out / "tables").glob("*.tex"))
    assert list((out / "figures").glob("*.svg"))


def test_saved_models_load_with_plain_transformers(done: tuple[Path, Results]) -> None:
    """In a process that never imports trimtab; tokenizer and configs agree on what ends a turn."""
    folder = done[0] / "seed-0" / "stages" / "dpo" / "best"
    script = f"""
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(folder)!r})
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
assert "trimtab" not in sys.modules
ids = tokenizer.apply_chat_template([dict(role="user", content="Lisbon?")], add_generation_prompt=True,
                                    return_tensors="pt", return_dict=True)
model.generate(**ids, max_new_tokens=3)
end = tokenizer.convert_tokens_to_ids("<|im_end|>")
stops = model.generation_config.eos_token_id
assert tokenizer.eos_token_id == model.config.eos_token_id == end
assert end in (stops if isinstance(stops, list) else [stops])
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert AutoModelForCausalLM.from_pretrained(folder).dtype.is_floating_point


def test_running_again_does_nothing_again(done: tuple[Path, Results], model: Path) -> None:
    out, first = done
    kept = {p: p.stat().st_mtime_ns for p in (out / "seed-0").rglob("*") if p.is_file()}
    again = run_study(parse(Recipe, recipe(model), "test"), out)
    assert {p: p.stat().st_mtime_ns for p in (out / "seed-0").rglob("*") if p.is_file()} == kept
    assert but_for_the_date(again) == but_for_the_date(first)


def test_a_study_of_its_own_for_every_folder(done: tuple[Path, Results], model: Path) -> None:
    other = recipe(model)
    other["dpo"]["beta"] = 0.7
    with pytest.raises(TrimtabError, match="holds another study"):
        run_study(parse(Recipe, other, "test"), done[0])


def test_the_same_results_from_nothing(done: tuple[Path, Results], model: Path, tmp_path: Path) -> None:
    """All but the clock."""
    again = run_study(parse(Recipe, recipe(model), "test"), tmp_path / "run")
    quiet = {"provenance", "curves"}
    assert again.model_dump(exclude=quiet) == done[1].model_dump(exclude=quiet)
    assert again.provenance.hashes == done[1].provenance.hashes


def test_stopped_outside_training_and_run_again(
    done: tuple[Path, Results], model: Path, tmp_path: Path, commands: Commands
) -> None:
    """While it answers, judges and reports: the one sentence each time, and the same results in the end."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(model)))
    words = ["study", str(file), "--out", str(tmp_path / "run")]
    moments = {"SIGTERM@answering": 143, "SIGHUP@judging": 129, "SIGTERM@reporting": 143, "none": 0}
    ran = commands.in_turn([(moment, 1, words) for moment in moments])
    assert [one.returncode for one in ran] == list(moments.values())
    assert [one.stderr.count(SENTENCE) for one in ran] == [1, 1, 1, 0]
    assert not any("Traceback" in one.stderr for one in ran)
    found = Results.read(tmp_path / "run" / "results.json")
    assert found.methods == done[1].methods
    assert found.warnings == done[1].warnings


def test_killed_and_run_again(done: tuple[Path, Results], model: Path, tmp_path: Path, commands: Commands) -> None:
    """SIGKILL in the middle of DPO, the study run again: the same models and results."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe(model)))
    words = ["study", str(file), "--out", str(tmp_path / "run")]
    # Four steps of SFT, then the third of DPO.
    assert commands.run(*words, moment="step", count=7).returncode == -9
    assert not (tmp_path / "run" / "results.json").exists()
    assert commands.run(*words).returncode == 0
    found = Results.read(tmp_path / "run" / "results.json")
    assert found.provenance.hashes == done[1].provenance.hashes
    assert found.methods == done[1].methods


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opponent": "./nowhere"}, "model ./nowhere: no such folder"),
        ({"grpo.rewards": [{"kind": "function", "path": "nowhere.py:f"}]}, "no such file as nowhere.py"),
        ({"grpo.rewards": [{"kind": "classifier", "model": "./nowhere"}]}, "model ./nowhere: no such folder"),
        ({"reward_model": "./nowhere"}, "model ./nowhere: no such folder"),
        ({"evaluation.decoding.engine": "vllm"}, "vLLM cannot be imported"),
        ({"grpo.sampling.engine": "vllm"}, "vLLM cannot be imported"),
    ],
)
def test_what_a_later_part_needs_is_asked_for_before_the_first(
    changes: dict[str, Any], message: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    value = recipe(model, methods=["sft", "grpo"], grpo={"rewards": [{"kind": "trained"}]})
    overrides = [f"{key}={json.dumps(given)}" for key, given in changes.items()]
    with pytest.raises(TrimtabError, match=message):
        run_study(parse(Recipe, apply_overrides(value, overrides), "test"), tmp_path / "run")
    assert not list((tmp_path / "run").glob("seed-*"))


def test_a_prompt_that_is_too_long_is_found_before_training(model: Path, tmp_path: Path) -> None:
    lines = [{"prompt": "Say" + " a" * n, "chosen": "a b", "rejected": "b"} for n in (1, 2, 600, 3, 4, 5, 6, 7)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"train": str(tmp_path / "rows.jsonl"), "test_rows": 4, "validation_rows": 1, "max_length": 64}
    given = recipe(model, data=data, sandbox=None, opponent=None, judge=None)
    with pytest.raises(
        TrimtabError, match=r"test rows: rows.jsonl:3: the prompt has \d+ tokens; with max_new_tokens=12"
    ):
        run_study(parse(Recipe, given, "test"), tmp_path / "run")
    assert not (tmp_path / "run" / "seed-0").exists()


def test_a_study_of_labelled_rows(shared_data: Path, model: Path, tmp_path: Path) -> None:
    """KTO's labels: SFT imitates the desirable half, KTO trains on all; what needs pairs is told first."""
    every = json.loads((shared_data / "data" / "other_formats" / "kto.json").read_text())
    rows = [row for row in every if len(str(row["messages"][:-1])) < 400][:60]
    (tmp_path / "kto.json").write_text(json.dumps(rows))
    data = {"train": str(tmp_path / "kto.json"), "validation_rows": 12, "test_rows": 8, "max_length": 256}
    given = recipe(model, data=data, sandbox=None, opponent=None, judge=None)
    with pytest.raises(TrimtabError, match="a completion with a label"):
        run_study(parse(Recipe, given, "test"), tmp_path / "pairs")
    assert not (tmp_path / "pairs" / "seed-0").exists()
    given["dpo"] = {**given["dpo"], "loss": "kto"}
    results = run_study(parse(Recipe, given, "test"), tmp_path / "run")
    assert list(results.methods) == ["base", "sft", "dpo"]
    counts = {
        n: json.loads((tmp_path / "run/seed-0/stages" / n / "data.json").read_text())["train"]
        for n in ("sft", "dpo")
    }
    good = sum(row["label"] for row in rows[20:])
    undesirable = counts["sft"]["dropped"].pop(UNDESIRABLE)
    assert undesirable == 40 - good > 0
    assert counts["sft"]["used"] + sum(counts["sft"]["dropped"].values()) == good > 0
    assert counts["dpo"]["used"] + sum(counts["dpo"]["dropped"].values()) == 40


def test_steps_that_were_not_taken_head_the_report(done: tuple[Path, Results], model: Path) -> None:
    out, before = done
    assert not any("not taken" in line for line in before.warnings)
    file = out / "seed-0" / "stages" / "dpo" / "skipped.jsonl"
    file.write_text('{"step": 1}\n{"step": 3}\n')
    again = run_study(parse(Recipe, recipe(model), "test"), out)
    file.unlink()
    assert "dpo: 2 steps with a broken loss or gradient were not taken (skipped.jsonl)." in again.warnings


def test_a_model_trained_under_scores_is_evaluated_under_the_best(model: Path, tmp_path: Path) -> None:
    """Its completions are what transformers alone generates from the saved folder's own template, which asks for
    the best score; asked for the worst they would be others."""
    overrides = ["sandbox.scores=true", "dpo.condition={text: 'Score {score}.', low: -10, high: 10.2}"]
    value = apply_overrides(recipe(model, methods=["dpo"]), overrides)
    run_study(parse(Recipe, value, "test"), tmp_path / "run")
    folder = tmp_path / "run" / "seed-0"
    lines = (folder / "evaluation" / "dpo" / "generations.jsonl").read_text().splitlines()
    best = folder / "stages" / "dpo" / "best"
    tokenizer, trained = AutoTokenizer.from_pretrained(best), AutoModelForCausalLM.from_pretrained(best)
    rows = [json.loads(line) for line in (tmp_path / "run" / "data" / "test.jsonl").read_text().splitlines()]
    differ = 0
    for line, row in zip(lines[:4], rows, strict=False):
        texts = []
        for score in (10.2, -10):
            ids = tokenizer.apply_chat_template(
                row["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True, target_score=score
            )
            out = trained.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
            texts.append(tokenizer.decode(out, skip_special_tokens=True))
        assert json.loads(line)["completion"] == texts[0]
        differ += texts[0] != texts[1]
    assert differ
