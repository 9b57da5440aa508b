"""`trimtab init`: what it writes loads, is planned as it is, and says of the data what is true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.data.splits import split_records
from trimtab.errors import TrimtabError
from trimtab.init import rounded_up, share_at, write_recipe
from trimtab.plan.estimate import make_plan
from trimtab.recipe import Recipe, load_recipe
from trimtab.recipe_files import SHIPPED, recipe_file

Make = Callable[..., Path]


def pairs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"What is {i}?", "chosen": "It is " + "so " * (i % 7), "rejected": "No. " + "Never. " * (i % 5)}
        | more
        for i in range(count)
    ]


def written(rows: list[Any], model: Path, write_jsonl: Make, **given: Any) -> tuple[Recipe, str, list[str]]:
    data = write_jsonl(rows)
    out = data.parent / "mine.yaml"
    lines = write_recipe(str(model), str(data), out, **given)
    return load_recipe(out), out.read_text(encoding="utf-8"), lines


def test_pairs(tiny_model_dir: Make, write_jsonl: Make) -> None:
    """As it is: loaded, split, planned; and every setting has a sentence above it."""
    rows = [*pairs(80), {"prompt": "no answer", "chosen": 3}]
    recipe, text, lines = written(rows, tiny_model_dir(max_position_embeddings=512), write_jsonl)
    assert recipe.name == "mine"
    assert recipe.methods == ["base", "sft", "dpo"]
    assert recipe.data is not None
    splits = split_records(recipe.data)
    sizes = len(splits.train), len(splits.validation), len(splits.test)
    assert min(sizes) >= 3
    assert sum(sizes) == 80
    assert f"{sizes[0]} rows train, {sizes[1]} choose, {sizes[2]} compare" in text
    assert "80 rows; pairs: 80." in text
    assert "1 rows cannot be read" in lines[1]
    assert "{kind: trained}" in text
    plan = make_plan(recipe, measured=False)
    assert [stage.work.name for stage in plan.stages] == ["sft", "dpo"]
    told = text.splitlines()
    for i, line in enumerate(told):
        if line.strip() and not line.strip().startswith("#") and not line.endswith(":"):
            above = [other for other in told[max(0, i - 4) : i] if other.strip().startswith("#")]
            assert above, line


def test_what_is_written_suits_the_data(tiny_model_dir: Make, write_jsonl: Make) -> None:
    model = tiny_model_dir()
    kto = [{"prompt": f"q{i}", "completion": "yes", "label": i % 2 == 0} for i in range(60)]
    answers = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]}
        for i in range(60)
    ]
    for rows, methods, said in (
        (kto, ["base", "sft", "dpo"], "loss: kto"),
        (answers, ["base", "sft"], "60 rows; "),
        ([*pairs(30), *answers[:30]], ["base", "sft"], "pairs: 30"),
    ):
        recipe, text, _ = written(rows, model, write_jsonl)
        assert recipe.methods == methods
        assert said in text
        assert ("dpo" in methods) == ("\ndpo:\n" in text)
        (write_jsonl([]).parent / "mine.yaml").unlink()


def test_lengths_fit_the_model(tiny_model_dir: Make, write_jsonl: Make) -> None:
    """256 positions: the longest prompt leaves what max_new_tokens takes, and max_length is no more."""
    rows = pairs(60)
    rows[7]["prompt"] = "word " * 100
    rows[8]["chosen"] = "word " * 600
    recipe, text, _ = written(rows, tiny_model_dir(max_position_embeddings=256), write_jsonl)
    assert recipe.data is not None
    assert recipe.data.max_length <= 256
    assert recipe.evaluation.decoding.max_new_tokens <= 156
    assert "% of the rows are longer; the longest has" in text
    rows[7]["prompt"] = "word " * 300
    with pytest.raises(TrimtabError, match=r"leaves no room for an answer in .*'s 256 positions"):
        write_recipe(str(tiny_model_dir(max_position_embeddings=256)), str(write_jsonl(rows)), Path("never.yaml"))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"prompt": f"q{i}"} for i in range(50)], "50 of 50 rows are prompts without an answer"),
        (pairs(4), "4 rows are too few to train, choose and test on"),
        (pairs(1) * 200, "200 rows are too few"),
        (["{"], "none of its 1 rows can be read"),
    ],
)
def test_data_that_no_study_can_start_from(
    rows: list[Any], expected: str, tiny_model_dir: Make, write_jsonl: Make, tmp_path: Path
) -> None:
    with pytest.raises(TrimtabError) as found:
        write_recipe(str(tiny_model_dir()), str(write_jsonl(rows)), tmp_path / "mine.yaml")
    assert expected in str(found.value)
    assert len(str(found.value).splitlines()) == 1
    assert not (tmp_path / "mine.yaml").exists()


def test_names_of_any_kind(tiny_model_dir: Make, tmp_path: Path) -> None:
    """Quotation marks, colons, hashes and line ends in names are names: they end no text and open none."""
    folder = tiny_model_dir('m "q": #x\n- y')
    data = tmp_path / "da'ta: {a}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs(40)))
    out = tmp_path / "sub" / "- my: recipe #1\nmethods: [grpo].yaml"
    write_recipe(str(folder), str(data), out)
    recipe = load_recipe(out)
    assert recipe.model == str(folder)
    assert recipe.data is not None
    assert recipe.data.train == str(data)
    assert recipe.name == "my-recipe-1-methods-grpo"
    with pytest.raises(TrimtabError, match="is there already"):
        write_recipe(str(folder), str(data), out)


def test_shares_and_steps_by_hand() -> None:
    assert [share_at([1, 2, 3, 4], share) for share in (0.25, 0.5, 0.51, 0.99, 1.0)] == [1, 2, 3, 4, 4]
    assert share_at([5], 0.01) == 5
    assert [rounded_up(n, 2048) for n in (1, 128, 129, 2000, 9000)] == [128, 128, 192, 2048, 2048]
    assert rounded_up(99999, 10**6) == 10**6


def test_recipes_by_their_names_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("quickstart")) == load_recipe(SHIPPED / "quickstart.yaml")
    assert recipe_file(Path("quickstart.yaml")) == SHIPPED / "quickstart.yaml"
    Path("quickstart").write_text("name: own")
    assert recipe_file(Path("quickstart")) == Path("quickstart")
    with pytest.raises(
        TrimtabError, match=r"by their names alone: distillation, quickstart, qwen.*`trimtab init` writes one"
    ):
        recipe_file(Path("recipes/quickstart.yaml"))
