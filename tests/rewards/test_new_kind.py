"""What a new kind of reward touches: a file of its own, and one row of rewards/kinds.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import trimtab
from rewards import toy_kind

USED = """
import json
from trimtab.cli import NAMES
from trimtab.errors import TrimtabError
from trimtab.command_settings import stage_settings
from trimtab.recipe import Recipe
from trimtab.data.parsing import parse
from trimtab.rewards.settings import make_reward, reward_named, without_asking

study = {"name": "n", "model": "m", "sandbox": {}, "opponent": "m", "methods": ["base", "sft", "grpo"]}
study |= {"judge": "brevity:7", "grpo": {"rewards": [{"kind": "brevity", "words": 4}, {"kind": "gold"}]}}
recipe = parse(Recipe, study, "r")
again = Recipe.model_validate(json.loads(json.dumps(recipe.model_dump())))
try:
    parse(Recipe, study | {"grpo": {"rewards": [{"kind": "gold", "words": 3}]}}, "r")
except TrimtabError as error:
    foreign = str(error)
try:
    parse(Recipe, study | {"grpo": {"rewards": [{"kind": "brevity", "wrds": 3}]}}, "r")
except TrimtabError as error:
    misspelt = str(error)
grpo, _ = stage_settings("grpo", "d.jsonl", None, [], ["brevity:9"])
print(json.dumps({
    "scores": make_reward(recipe.grpo.rewards[:1], {}).score(["p"], ["a b c"]),
    "judge": recipe.judge.describe(), "same": again == recipe, "foreign": foreign, "misspelt": misspelt,
    "named": grpo.rewards[0].words, "help": "brevity:WORDS" in NAMES,
    "gold": without_asking(recipe.grpo.rewards[1].model_dump()),
}))
"""


def test_a_kind_is_its_file_and_a_row(tmp_path: Path) -> None:
    package = tmp_path / "trimtab"
    shutil.copytree(
        Path(trimtab.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "starters")
    )
    shutil.copy(toy_kind.__file__, package / "rewards" / "brevity.py")
    table = package / "rewards" / "kinds.py"
    table.write_text(table.read_text().replace('    "gold": Kind', toy_kind.ROW + '    "gold": Kind'))
    done = subprocess.run(
        [sys.executable, "-c", USED],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["scores"] == [1.0]
    assert found["judge"] == "words left of 7"
    assert found["same"]
    assert found["named"] == 9
    assert found["help"]
    assert found["foreign"] == "r: grpo.rewards.0: a reward of kind gold takes no words"
    assert found["misspelt"] == "r: unknown setting 'grpo.rewards.0.wrds'. Did you mean 'words'?"
    assert "words" not in found["gold"], "another kind's settings are in no folder's key"
