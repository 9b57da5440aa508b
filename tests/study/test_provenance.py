"""What a report says of where it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab.data.parsing import parse
from trimtab.data.splits import DataSettings
from trimtab.evaluation.results import Provenance, Results, Source
from trimtab.evaluation.settings import EvaluationSettings
from trimtab.recipe import Recipe, load_recipe
from trimtab.recipe_files import SHIPPED
from trimtab.report.render import render_html, write_report
from trimtab.report.tables import all_tables
from trimtab.study.provenance import (
    HIDDEN,
    command_line,
    data_sources,
    set_and_default,
    study_settings,
    without_secrets,
)

MARK = "</td><script>x</script> | `a`"


def changed(recipe: Recipe) -> dict[str, str]:
    return {one.name: one.value for one in study_settings(recipe)[0]}


def test_settings_of_a_study() -> None:
    """β, learning rates and batch sizes; stages that do not run are no part of it, nor seeds that follow."""
    recipe = load_recipe(
        SHIPPED / "quickstart.yaml", ["seed=7", "ppo.samples=9", "dpo.lora={}", "sft.batch_size=4"]
    )
    found = changed(recipe)
    assert found["dpo.beta"] == "0.2"
    assert found["grpo.learning_rate"] == "0.0001"
    assert found["sft.batch_size"] == "4"
    assert found["grpo.rewards.0.kind"] == "trained"
    assert found["model"] == "sandbox:base"
    assert (found["seed"], found["dpo.lora"]) == ("7", "{}")
    assert not any(name.startswith("ppo") or name.endswith(".seed") for name in found)
    defaults = study_settings(recipe)[1]
    assert defaults["sft.accumulation"] == "1"
    assert defaults["dpo.seed"] == "7"
    assert defaults["dpo.batch_size"] == "16"
    assert not set(defaults) & set(found)
    assert {one.name: one.default for one in study_settings(recipe)[0]}["dpo.beta"] == "0.1"


def test_every_setting_is_told_once() -> None:
    recipe = load_recipe(SHIPPED / "quickstart.yaml")
    names = [one.name for one in set_and_default({"": recipe})[0]]
    assert len(names) == len(set(names))
    both = set(names) | set(set_and_default({"": recipe})[1])
    assert {"evaluation.decoding.top_p", "sft.adam_betas", "sandbox.train_rows", "judge.kind", "opponent"} <= both
    base_only = parse(
        Recipe, {"name": "n", "model": "m", "sandbox": {}, "methods": ["base"], "dpo": {"beta": 3}}, ""
    )
    assert "dpo.beta" not in changed(base_only)
    assert set_and_default({"": EvaluationSettings()})[0] == []


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://user:hunter2@host/v1", "hunter2"),
        ("vllm:m@http://host:1/v1?api_key=hunter2", "hunter2"),
        ("judge.base_url=https://hunter2@host", "hunter2"),
        ("api_key=hunter2", "hunter2"),
        ("judge={kind: vllm, api-key: hunter2}", "hunter2"),
        ('{"password": "hunter2"}', "hunter2"),
        ("nvapi" + "-abcDEF123456", "abcDEF"),  # in two pieces: made up, and no scan should stop at it
        ("x=hf_abcdefghijklmnop", "abcdef"),
        ("sk-abcdefghij12345", "abcdef"),
    ],
)
def test_no_key_is_shown(text: str, hidden: str) -> None:
    assert hidden not in without_secrets(text)
    assert hidden not in (command_line(["/x/bin/trimtab", "evaluate", "--judge", text]) or "")


def test_what_is_no_key_stays() -> None:
    for text in (
        "sampling.max_new_tokens=3",
        "tokenizer=a/b",
        "token_budget=9",
        "a/sk-model",
        "api_key_variable=X",
    ):
        assert without_secrets(text) == text
    assert command_line(["trimtab", "sft", "--api-key", "abc", "--out", "a b"]) == (
        f"trimtab sft --api-key '{HIDDEN}' --out 'a b'"
    )
    assert command_line(["/usr/bin/pytest", "-q"]) is None


def test_data_by_name_and_content(tmp_path: Path) -> None:
    one, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    one.write_text("1")
    other.write_text("2")
    found = data_sources(DataSettings(train=str(one), test=str(other)))
    assert [(s.role, s.name) for s in found] == [("train", str(one)), ("test", str(other))]
    assert found[0].hash != found[1].hash
    one.write_text("3")
    assert data_sources(DataSettings(train=str(one)))[0].hash != found[0].hash


def test_a_report_tells_itself_from_another(tmp_path: Path) -> None:
    """In the page and in the tables, as text; and what was written before there was any of it still loads."""
    recipe = load_recipe(SHIPPED / "quickstart.yaml", ["dpo.beta=0.35"])
    settings, defaults = study_settings(recipe)
    results = Results(
        name="n",
        provenance=Provenance(
            command=f"trimtab study x --set 'name={MARK}'",
            date="2026-01-02T03:04Z",
            models=[Source(role="model", name=MARK, hash="abc1")],
            data=[Source(role="train", name="rows.jsonl", hash="abc2")],
            settings=settings,
            defaults=defaults,
        ),
    )
    page = render_html(results, {})
    for text in ("dpo.beta", "0.35", "rows.jsonl", "abc1", "abc2", "2026-01-02T03:04Z", "trimtab study x"):
        assert text in page
    assert "<script>x" not in page
    assert page.index("<summary>Settings at their defaults") < page.index("sft.accumulation")
    assert {"settings", "defaults", "sources"} <= set(all_tables(results))
    write_report(Results.model_validate_json(results.to_json()), tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_html(results)
    assert "| dpo.beta | 0.35 | 0.1 |" in (tmp_path / "tables" / "settings.md").read_text().replace("\\", "")
    old = results.model_dump(exclude={"provenance": {"command", "date", "models", "data", "settings", "defaults"}})
    assert "not recorded" in render_html(Results.model_validate(old), {})
