"""What is exported is the trained model, byte for byte, in a folder that needs no trimtab, with a card."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.toy import write_model
from trimtab.data.hashing import hash_source
from trimtab.data.parsing import parse
from trimtab.errors import TrimtabError
from trimtab.evaluation.markdown import escape_markdown
from trimtab.evaluation.results import Results
from trimtab.recipe import Recipe
from trimtab.report.card import results_section
from trimtab.study.export import export_model
from trimtab.study.run import run_alone, run_study
from trimtab.training.card import _method_title, is_hub_name, lineage, public, public_text

STAGE = {"batch_size": 4, "max_steps": 2, "evaluation_interval": 1, "learning_rate": 1e-3}
PLAIN = """
import sys
sys.modules["trimtab"] = None  # an import of it would fail
from transformers import AutoModelForCausalLM, AutoTokenizer
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True,
                                    return_tensors="pt", return_dict=True)
out = model.generate(**ids, max_new_tokens=4)
print(out.shape[1] - ids["input_ids"].shape[1], tokenizer.eos_token_id in [model.generation_config.eos_token_id]
      or tokenizer.eos_token_id in model.generation_config.eos_token_id)
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe, Results]:
    model = write_model(tmp_path_factory.mktemp("export") / "start")
    recipe = {
        "name": "small", "model": str(model), "opponent": str(model), "judge": "gold",
        "sandbox": {"train_rows": 24, "validation_rows": 8, "test_rows": 12},
        "methods": ["base", "sft", "dpo"], "sft": STAGE, "dpo": STAGE,
        "evaluation": {"decoding": {"strategy": "greedy", "max_new_tokens": 12}},
    }  # fmt: skip
    out = tmp_path_factory.mktemp("export") / "run"
    made = parse(Recipe, recipe, "test")
    return out, made, run_study(made, out)


def front_matter(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


def test_an_export_is_whole_and_loads_without_trimtab(study: tuple[Path, Recipe, Results], tmp_path: Path) -> None:
    best = study[0] / "seed-0" / "stages" / "dpo" / "best"
    out = export_model(study[0], tmp_path / "out", "dpo")
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "README.md"} <= names
    for path in best.iterdir():
        if path.is_file() and path.name != "README.md":
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    done = subprocess.run([sys.executable, "-c", PLAIN, out], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    new, stops = done.stdout.split()[-2:]
    assert (1 <= int(new) <= 4, stops) == (True, "True")


def test_the_card_has_warnings_first_then_the_methods_numbers(study: tuple[Path, Recipe, Results]) -> None:
    out, _, results = study
    card = (out / "seed-0" / "stages" / "dpo" / "best" / "README.md").read_text()
    head = front_matter(card)
    assert head["license"] == "unknown"
    assert head["tags"] == ["trimtab", "alignment", "dpo"]
    assert "base_model" not in head  # a folder's name says nothing on the hub
    assert "# start: sft → dpo" in card
    assert results.warnings
    assert card.index("Warning") < card.index("| Method") < card.index("## Training") < card.index("## Limits")
    rate = results.methods["dpo"].estimates["win_rate"]
    assert rate.ci95 is not None
    assert f"{100 * rate.value:.1f} \\[{100 * rate.ci95[0]:.1f}, {100 * rate.ci95[1]:.1f}\\]" in card
    assert "SFT |" not in card.split("## Training")[0].replace("SFT + ", "")  # another method's row
    assert "It ran 2 optimizer steps" in card
    assert str(out.parent) not in card


def test_cards_change_no_hash_and_a_study_stays_done(study: tuple[Path, Recipe, Results]) -> None:
    out, recipe, results = study
    best = out / "seed-0" / "stages" / "sft" / "best"
    before = hash_source(str(best))
    (best / "README.md").write_text("another")
    assert hash_source(str(best)) == before
    assert run_study(recipe, out).methods == results.methods  # neither refused nor trained again
    assert "## Results" in (best / "README.md").read_text()


def test_a_stage_alone_claims_no_quality(
    tiny_model_dir: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    from trimtab.command_settings import stage_settings

    rows = write_jsonl([{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": "no"} for i in range(8)])
    sets = ["batch_size=2", "max_steps=1", "data.validation_rows=2"]
    settings, data = stage_settings("sft", str(rows), None, sets)
    best = run_alone("sft", str(tiny_model_dir()), settings, data, tmp_path / "stage", None)
    card = (best / "README.md").read_text()
    assert "**Not evaluated**" in card
    assert "6 of 6 rows, held out" not in card
    assert "validation: 2 of 2 rows, held out of rows.jsonl" in card
    assert str(tmp_path) not in card
    assert export_model(best, tmp_path / "a") == tmp_path / "a"
    assert export_model(tmp_path / "stage", tmp_path / "b") == tmp_path / "b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "name a trained method with --method. It has: dpo, sft"),
        ({"method": "grpo"}, "It has: dpo, sft"),
        ({"method": "sft", "seed": 3}, "name one training seed with --seed. It has: 0"),
    ],
)
def test_dead_ends(study: tuple[Path, Recipe, Results], tmp_path: Path, words: Any, message: str) -> None:
    with pytest.raises(TrimtabError, match=message):
        export_model(study[0], tmp_path / "out", **words)


def test_nothing_is_written_over_and_nothing_unfinished_is_exported(
    study: tuple[Path, Recipe, Results], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(TrimtabError, match="is not empty"):
        export_model(study[0], tmp_path, "sft")
    with pytest.raises(TrimtabError, match="neither a stage's folder nor a study's"):
        export_model(tmp_path, tmp_path / "out")
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "stage.json").write_text("{}")
    with pytest.raises(TrimtabError, match="not a finished stage"):
        export_model(tmp_path / "stage", tmp_path / "out")


def test_a_card_names_no_folder_and_no_server(study: tuple[Path, Recipe, Results]) -> None:
    results = study[2]
    assert Path(results.opponent or "").is_absolute()
    named = results.model_copy(
        update={"judge": "rm (/srv/models/rm)", "warnings": ["Scores of /srv/models/rm, ~/a/b."]}
    )
    section = results_section(named, "dpo")
    assert "/srv" not in section
    assert f"against {Path(results.opponent or '').name}, judged by rm (rm)" in section
    assert "\n| Base (opponent) |" in section  # the opponent is this method, and has no row of its own
    alone = named.model_copy(update={"opponent_method": None, "opponent_result": results.methods["base"]})
    assert f"\n| {Path(results.opponent or '').name} (opponent) |" in results_section(alone, "dpo")
    among = results_section(named.model_copy(update={"opponent_method": "sft"}), "dpo")
    assert "\n| SFT (opponent) |" in among
    assert "\n| DPO |" in among
    assert "/srv" not in results_section(alone, "dpo")
    assert str(Path(results.opponent or "").parent) not in section
    assert public({"base_url": "http://gpu1:8000", "model": "Qwen/Qwen3-8B"}) == {
        "base_url": "(an address)", "model": "Qwen/Qwen3-8B",
    }  # fmt: skip
    assert (
        public_text("0.5 × Qwen/Qwen3-8B at http://gpu1:8000/v1, 3/4") == "0.5 × Qwen/Qwen3-8B at (an address), 3/4"
    )


def test_a_card_claims_no_validation_where_there_was_none(
    tiny_model_dir: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    from trimtab.command_settings import stage_settings

    rows = write_jsonl([{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": "no"} for i in range(4)])
    settings, data = stage_settings("sft", str(rows), None, ["batch_size=2", "max_steps=2"])
    best = run_alone("sft", str(tiny_model_dir()), settings, data, tmp_path / "stage", None)
    card = (best / "README.md").read_text()
    assert "those of step 2, which no validation metric chose." in card
    assert "was best" not in card


def test_a_card_says_which_loss_it_was() -> None:
    assert _method_title("dpo", {"loss": "dpo"}) == "direct preference optimization"
    assert _method_title("dpo", {"loss": "kto"}) == "preference optimization with the loss kto"
    assert _method_title("dpo", {"loss": {"dpo": 1.0, "sft": 0.1}}).endswith("the loss 1 × dpo + 0.1 × sft")


def test_the_folder_that_one_stands_in(
    study: tuple[Path, Recipe, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_model(study[0], Path("."), "sft")
    assert (tmp_path / "here" / "model.safetensors").is_file()


def test_names_of_the_hub_and_of_this_machine(tmp_path: Path) -> None:
    assert is_hub_name("Qwen/Qwen2.5-0.5B")
    assert is_hub_name("gpt2")
    assert not is_hub_name("data/train.jsonl")
    assert is_hub_name("trl-lib/ultrafeedback_binarized")
    assert not is_hub_name(str(tmp_path))
    assert lineage("Qwen/Qwen2.5-0.5B") == ["Qwen/Qwen2.5-0.5B"]
    assert public({"path": "/home/me/rewards.py:f", "n": 3, "t": ("a/b", "~/c/d")}) == {
        "path": "rewards.py:f", "n": 3, "t": ["a/b", "d"],
    }  # fmt: skip


def test_a_card_warns_of_its_own_model_only(study: tuple[Path, Recipe, Results]) -> None:
    """Of a study's warnings those about other methods are left out, by name, label, stage and seed."""
    lines = {
        "One training seed.": True,
        "dpo: no evaluation was better.": True,
        "DPO: length-controlled win rate from 12 prompts.": True,
        "dpo, seed 3: no evaluation was better.": True,
        'DPO amplifies a marker of the data: "SFT:".': True,
        "MOST SCORES ARE MISSING: DPO has a score for 1 prompt.": True,
        "MOST SCORES ARE MISSING: SFT has a score for 1 prompt.": False,
        "sft: no evaluation was better.": False,
        "SFT + length penalty: ties.": False,
        "sft_length, seed 0: ties.": False,
        "online_dpo-2: 3 of 9 prompts gave a pair.": False,
        "reward: no evaluation was better.": False,
        "Base: cut at the cap.": False,
        "dportable: a sentence.": True,
    }
    section = results_section(study[2].model_copy(update={"warnings": list(lines)}), "dpo")
    said = [line.removeprefix("> **Warning:** ") for line in section.splitlines() if "Warning" in line]
    assert said == [escape_markdown(line) for line, kept in lines.items() if kept]


def test_names_in_a_card_are_no_markup(
    tiny_model_dir: Callable[..., Path], write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    """Of the model's folder, of the data and of the opponent; a setting's text closes no block."""
    from trimtab.command_settings import stage_settings

    hostile = "a|b <img src=x> [l](javascript:x) `c`"
    pairs = [{"prompt": f"Say {i}", "chosen": "it is", "rejected": "no"} for i in range(6)]
    rows = write_jsonl(pairs, f"{hostile}.jsonl")
    settings, data = stage_settings(
        "sft", str(rows), None, ["batch_size=2", "max_steps=1", "data.validation_rows=2"]
    )
    best = run_alone("sft", str(tiny_model_dir(hostile)), settings, data, tmp_path / "stage", None)
    card = (best / "README.md").read_text()
    assert "<img" not in card
    assert "[l](" not in card
    assert card.count(escape_markdown(hostile)) >= 4


def test_an_opponents_name_is_no_markup(study: tuple[Path, Recipe, Results]) -> None:
    hostile = "x|y <b>z [l](j)"
    section = results_section(study[2].model_copy(update={"opponent": hostile, "judge": hostile}), "dpo")
    assert "<b>" not in section
    assert "[l](" not in section
    assert f"against {escape_markdown(hostile)}, judged by {escape_markdown(hostile)};" in section
