"""Every recipe that comes with the package loads; those of Qwen2.5 plan at the full shape, from a config alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from transformers import AutoConfig, AutoTokenizer

from trimtab.plan.estimate import make_plan
from trimtab.recipe import load_recipe
from trimtab.recipe_files import SHIPPED

RECIPES = sorted(SHIPPED.glob("*.yaml"))
QWEN = [path for path in RECIPES if path.name.startswith("qwen2.5")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_is_named_as_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem


def test_the_reports_settings() -> None:
    """As its section 4 has them."""
    recipe = load_recipe(QWEN[[p.stem for p in QWEN].index("qwen2.5-0.5b-ultrafeedback")])
    for sft in (recipe.sft, recipe.settings_of("sft_length")):
        assert (sft.learning_rate, sft.batch_size, sft.accumulation, sft.epochs, sft.seed) == (1e-4, 2, 2, 10, 16)
        assert (sft.warmup_steps, sft.patience, sft.schedule, sft.weight_decay) == (10, 2000, "linear", 0)
    penalty = recipe.settings_of("sft_length").length_penalty
    assert penalty is not None
    assert (penalty.weight, penalty.interval, penalty.scale) == (0.001, 100, "sequence")
    dpo, grpo = recipe.dpo, recipe.grpo
    assert (dpo.learning_rate, dpo.batch_size, dpo.accumulation, dpo.epochs, dpo.beta, dpo.seed) == (
        5e-6, 2, 2, 3, 0.1, 42,
    )  # fmt: skip
    assert (dpo.patience, dpo.evaluation_interval, dpo.sample_interval) == (2500, 250, 500)
    assert (grpo.learning_rate, grpo.batch_size, grpo.kl_coefficient, grpo.max_steps) == (5e-6, 2, 0.1, 1000)
    assert (grpo.fixed_prompts, grpo.samples, grpo.evaluation_interval, grpo.checkpoint_interval) == (50, 4, 20, 50)
    assert (min(grpo.sampling.temperatures), max(grpo.sampling.temperatures)) == (0.7, 1.1)
    assert (penalty.max_new_tokens, grpo.sampling.max_new_tokens) == (350, 256)
    decoding = recipe.evaluation.decoding
    assert (decoding.strategy, decoding.num_beams, decoding.length_penalty) == ("beam", 4, 0.9)
    assert (decoding.temperature, decoding.top_p, decoding.max_new_tokens) == (0.6, 0.95, 350)


@pytest.mark.slow
@pytest.mark.parametrize("path", QWEN, ids=lambda path: path.stem)
def test_a_recipe_plans_at_the_full_shape(
    path: Path, shared_data: Path, qwen_tokenizer_dir: Path, tmp_path: Path
) -> None:
    whole = path.stem == "qwen2.5-0.5b-ultrafeedback"  # of the others two layers, which are traced in a tenth
    config = AutoConfig.for_model(
        "qwen2", vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24 if whole else 2,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(qwen_tokenizer_dir).save_pretrained(tmp_path)
    data = shared_data / "data" / "ultrafeedback"
    overrides = [
        f"model={tmp_path}", f"data.train={data / 'train.jsonl'}", f"data.test={data / 'eval.jsonl'}",
        "data.validation_rows=20", "data.train_rows=100",
    ]  # fmt: skip
    plan = make_plan(load_recipe(path, overrides), measured=False)
    layer = 2 * 896**2 + 896 + 2 * (128 * 896 + 128) + 3 * 896 * 4864 + 2 * 896
    assert plan.parameters.total == 151936 * 896 + 896 + config.num_hidden_layers * layer
    assert plan.parameters.total == 494_032_768 or not whole
    assert [stage.work.name for stage in plan.stages][:3] == ["sft", "sft_length", "dpo"]
    for stage in plan.stages:
        adapted = stage.work.settings.lora is not None
        assert (stage.parameters.trained < stage.parameters.total) == adapted
        assert stage.memory.parts["weights"] == 4 * stage.parameters.total or stage.work.method == "reward"


def test_make_real_finds_every_source_in_a_folder() -> None:
    """Each of the recipe's sources of rows is one of the hub, and `make real` names a local file for it."""
    value = yaml.safe_load((SHIPPED / "smollm2-135m.yaml").read_text())
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    sources = [name for name, of in value.items() if isinstance(of, dict) and "train" in of]
    assert sources == ["data", "reward_data", "prompts"]
    for name in sources:
        assert f"--set {name}.train=$(DATA)/" in makefile
