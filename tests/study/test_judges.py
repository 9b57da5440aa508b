"""A study and an evaluation judged by a server: the key stays out of every file, missing scores are loud and
are asked for anew, and a judge that was stopped goes on without generating again."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewards.toy import reward_settings
from servers.nemotron_server import RewardServer, score_of, serving
from training.toy import write_model, write_pairs
from trimtab import cli, progress
from trimtab.command_settings import stage_settings
from trimtab.data.parsing import parse
from trimtab.data.records import Record, read_records
from trimtab.errors import TrimtabError
from trimtab.evaluation import complete, scoring
from trimtab.evaluation.outputs import Generation, read_generations, read_scores, write_rows
from trimtab.recipe import Recipe
from trimtab.rewards.cache import ScoreCache
from trimtab.rewards.nemotron import NemotronReward
from trimtab.rewards.settings import reward_named
from trimtab.rewards.settings_base import RewardSettings
from trimtab.study.collect import _training_reward, judged_by_a_part
from trimtab.study.evaluate import evaluate_only
from trimtab.study.run import run_alone, run_study

KEY = "test-key-LeAkEd-0123456789"
STAGE = {"batch_size": 4, "max_steps": 2, "evaluation_interval": 2, "logging_interval": 1, "warmup_steps": 0}
ASKED = {"kind": "nemotron", "backoff": 0.01, "longest_wait": 0.1, "timeout": 2.0}
GREEDY = {"decoding": {"strategy": "greedy", "max_new_tokens": 12}, "judge_probes": 0}
TEST_ROWS = 24


def recipe(model: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "judged",
        "model": str(model),
        "opponent": "sandbox:instruct",
        "judge": ASKED,
        "methods": ["base", "sft", "grpo"],
        "sandbox": {"train_rows": 24, "validation_rows": 4, "test_rows": TEST_ROWS},
        "sft": {"learning_rate": 1e-3, **STAGE},
        "grpo": {
            **STAGE,
            "samples": 2,
            "sampling": {"max_new_tokens": 8},
            "rewards": [{**ASKED, "name": "training"}],
        },
        "evaluation": GREEDY,
        **changes,
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("judges") / "model")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[RewardServer], None]:
    """at(server): what the environment says of it."""

    def point(server: RewardServer) -> None:
        monkeypatch.setenv("NVIDIA_API_BASE_URL", server.address + "/v1")
        monkeypatch.setenv("NVIDIA_API_KEY", KEY)

    return point


def files_with(text: str, folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def missing_in(out: Path) -> Counter[str]:
    """How many scores each method lacks."""
    files = out.glob("seed-0/evaluation/*/scores.jsonl")
    return Counter({file.parent.name: sum(s.score is None for s in read_scores(file)) for file in files})


def test_a_study_judged_by_a_server_that_fails(
    model: Path,
    at: Callable[..., None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Judge and training reward are one endpoint under two names: the results say so. Run again, it asks for
    nothing but what is missing. The key is in no file, no line printed and no library's log."""
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "run"
    with serving(fault_rate=0.3, faults=("429", "500", "half a body", "nan"), key=KEY) as server:
        at(server)
        results = run_study(parse(Recipe, recipe(model), "test"), out)
        missing = missing_in(out)
        assert set(missing) == {"base", "sft", "grpo", "opponent"}
        assert missing.total() > 0, "or this test shows nothing"
        before = server.asked.total()
        run_study(parse(Recipe, recipe(model), "test"), out)
        # Each missing one costs a call, and a few calls fail once more.
        assert missing.total() <= server.asked.total() - before <= 8 * missing.total()
        assert missing_in(out).total() < missing.total()
        assert all(n == 1 for n in server.scored.values()), "no score was paid for twice"
        assert ScoreCache(out / "cache" / "scores.sqlite").count() == len(server.scored)
    name = "nvidia/llama-3.1-nemotron-70b-reward"
    assert (results.judge, results.training_reward) == (name, name)
    assert [w for w in results.warnings if f"The judge, {name}, is also the training reward" in w]
    assert [w for w in results.warnings if "compare completions of one prompt only" in w]
    prompts = [r.prompt for r in read_records(str(out / "data" / "test.jsonl"))]
    folder = out / "seed-0" / "evaluation" / "sft"
    pairs = zip(
        prompts, read_generations(folder / "generations.jsonl"), read_scores(folder / "scores.jsonl"), strict=True
    )
    for prompt, generation, score in pairs:
        turns = [("user", prompt)] if isinstance(prompt, str) else [(m.role, m.content) for m in prompt]
        messages = [{"role": r, "content": c} for r, c in [*turns, ("assistant", generation.completion)]]
        assert score.score in (None, score_of(messages))
        assert (score.score is None) == (score.reason is not None)
    assert files_with(KEY, tmp_path) == []
    assert len(list(out.rglob("*"))) > 30
    printed = capsys.readouterr()
    assert KEY not in caplog.text + printed.out + printed.err
    assert "HTTP Request" in caplog.text, "or the log shows nothing"


def test_how_a_server_is_asked_may_change_in_the_middle_of_a_study(
    model: Path, at: Callable[..., None], tmp_path: Path
) -> None:
    """Fewer at once, or a longer wait, is the same study; another model is another."""
    value = recipe(model, methods=["grpo"])
    with serving() as server:
        at(server)
        first = run_study(parse(Recipe, value, "test"), tmp_path / "run")
        asked = server.asked.total()
        slower = {**ASKED, "concurrency": 1, "requests_per_minute": 6000, "retries": 1}
        again = value | {"judge": slower, "grpo": value["grpo"] | {"rewards": [slower | {"name": "training"}]}}
        second = run_study(parse(Recipe, again, "test"), tmp_path / "run")
        assert second.provenance.settings != first.provenance.settings, "or the report hides what was asked"
        assert second.model_copy(update={"provenance": first.provenance}) == first
        assert server.asked.total() == asked
        other = value | {"judge": {**ASKED, "model": "another"}}
        with pytest.raises(TrimtabError, match=r"holds another study \(its judge.model differ\)"):
            run_study(parse(Recipe, other, "test"), tmp_path / "run")


def test_without_a_key_nothing_is_trained(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NVIDIA_API_KEY", raising=False)
    monkeypatch.delenv("NVIDIA_API_BASE_URL", raising=False)
    for changes in ({}, {"judge": "gold"}):
        with pytest.raises(TrimtabError, match="no key"):
            run_study(parse(Recipe, recipe(model, **changes), "test"), tmp_path / "run")
    assert not list((tmp_path / "run").glob("seed-*"))


def test_what_comes_last_is_looked_for_first(model: Path, tmp_path: Path) -> None:
    """A misspelt reward or opponent ends a study before it trains, and its folder is free for the right one."""
    (tmp_path / "mine.py").write_text("def score(completions): return [0.0 for _ in completions]")
    grpo = {"max_steps": 1, "batch_size": 2}
    function = {"kind": "function", "path": f"{tmp_path}/mine.py:scoer"}
    classifier = {"kind": "classifier", "model": f"{tmp_path}/absent"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"methods": ["grpo"], "grpo": grpo | {"rewards": [function]}}, "has no 'scoer'"),
        ({"methods": ["grpo"], "grpo": grpo | {"rewards": [classifier]}}, "absent: no such folder"),
        ({"methods": ["sft"], "opponent": f"{tmp_path}/absent"}, "absent: no such folder"),
        ({"methods": ["sft"], "opponent": str(tmp_path)}, "no config.json in it"),
    ]
    for changes, expected in wrong:
        value = recipe(model, **({"judge": "gold"} | changes))
        with pytest.raises(TrimtabError, match=expected):
            run_study(parse(Recipe, value, "test"), tmp_path / "run")
    assert not list((tmp_path / "run").glob("seed-*"))
    with pytest.raises(TrimtabError, match="absent: no such folder"):
        evaluate_only(
            str(model),
            str(write_pairs(tmp_path / "rows.jsonl", 8)),
            tmp_path / "out",
            f"{tmp_path}/absent",
            "gold",
            None,
            [],
        )
    assert not (tmp_path / "out").exists()


def test_most_scores_missing_is_loud(
    model: Path, at: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """80 % of the answers are reward:nan. Once the server is well, the same command mends it."""
    value = parse(Recipe, recipe(model, methods=["base"]), "test")
    with serving(fault_rate=0.8, faults=("nan",)) as server:
        at(server)
        results = run_study(value, tmp_path / "run")
        assert results.warnings[0].startswith("MOST SCORES ARE MISSING: Base has a score for ")
        assert results.summary == "No conclusion: most of the judge's scores are missing."
        assert "MOST SCORES ARE MISSING" in (tmp_path / "run" / "report.html").read_text()
        assert "of 24 completions have no score" in " ".join(capsys.readouterr().err.split())
        server.fault_rate = 0.0
        mended = run_study(value, tmp_path / "run")
    counts = mended.methods["base"].win_counts
    assert counts is not None
    assert (counts.n, counts.missing) == (TEST_ROWS, 0)
    assert not [w for w in mended.warnings if "MISSING" in w]


def test_a_judge_that_was_stopped_goes_on_without_generating_again(
    model: Path, at: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes away after the completions are there; the next run generates nothing, and asks for what
    has no score yet. The same completions by another judge are not generated again either."""
    rows = str(write_pairs(tmp_path / "rows.jsonl", 20))
    settings = ["judge_probes=0", "decoding.strategy=greedy", "decoding.max_new_tokens=8"]
    generated = []
    original = complete.generate
    monkeypatch.setattr(complete, "generate", lambda *a, **k: generated.append(1) or original(*a, **k))

    def run(judge: str) -> Any:
        return evaluate_only(str(model), rows, tmp_path / "out", "sandbox:instruct", judge, None, settings)

    with serving(key="another") as server:
        at(server)
        with pytest.raises(TrimtabError, match=r"answers 401 .*The key in NVIDIA_API_KEY is not valid"):
            run("nemotron")
        assert len(generated) == 1
    with serving(key=KEY) as server:
        at(server)
        found = run("nemotron")
        assert len(generated) == 2, "the opponent's"
        assert found.methods["model"].win_counts.n == 20
        assert set(server.asked.values()) == {1}
        assert found.judge == "nvidia/llama-3.1-nemotron-70b-reward"
    with serving() as server:
        run(f"vllm:rm@{server.address}")
        assert server.asked.total() > 0
    run("gold")
    assert len(generated) == 2
    assert files_with(KEY, tmp_path) == []


def test_a_stage_by_itself_keeps_its_scores_in_its_folder(
    model: Path, at: Callable[..., None], tmp_path: Path
) -> None:
    rows = str(write_pairs(tmp_path / "rows.jsonl", 8))
    words = [*(f"{k}={v}" for k, v in STAGE.items()), "samples=2", "sampling.max_new_tokens=6"]
    with serving(key=KEY) as server:
        at(server)
        settings, data = stage_settings("grpo", rows, None, words, ["nemotron"])
        run_alone("grpo", str(model), settings, data, tmp_path / "out", None)
        assert ScoreCache(tmp_path / "out" / "scores.sqlite").count() == len(server.scored) > 0
        run_alone("grpo", str(model), settings, data, tmp_path / "out", None)
    assert files_with(KEY, tmp_path) == []
    assert "nemotron" in (tmp_path / "out" / "stage.json").read_text()


def test_a_traceback_shows_no_key(model: Path, at: Callable[..., None], tmp_path: Path) -> None:
    """The command with --debug, as a process of its own; its last line is what it says without."""
    rows = str(write_pairs(tmp_path / "rows.jsonl", 6))
    words = ["evaluate", "--model", str(model), "--data", rows, "--opponent", str(model), "--judge", "nemotron"]
    words += ["--set", "decoding.max_new_tokens=4", "--set", "decoding.strategy=greedy"]
    with serving(status=403) as server:
        at(server)
        command = [sys.executable, "-m", "trimtab.cli", "--debug", *words, "--out", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    line = done.stderr.splitlines()[-1]
    assert "nemotron-70b-reward: http://127.0.0.1" in line
    assert "answers 403 Forbidden" in line
    assert KEY not in done.stdout + done.stderr
    assert files_with(KEY, tmp_path) == []


# ---- what may judge


def test_a_judge_is_any_reward_by_name_or_with_its_settings(model: Path) -> None:
    def judge(value: Any) -> RewardSettings:
        found = parse(Recipe, recipe(model, judge=value), "r.yaml").judge
        assert found is not None
        return found

    assert judge("gold").kind == "gold"
    assert judge("nemotron") == judge({"kind": "nemotron"})
    assert judge("vllm:org/rm@http://h:1").model_dump(include={"kind", "model", "base_url"}) == {
        "kind": "vllm", "model": "org/rm", "base_url": "http://h:1",
    }  # fmt: skip
    assert judge("nemotron_local:folder").model == "folder"
    assert judge("my.py:f").path == "my.py:f"
    whole = parse(Recipe, recipe(model), "r.yaml")
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(whole.model_dump()))) == whole


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ({"kind": "trained"}, "can't be the reward model that the study trains"),
        ({"kind": "nemotron", "weight": 2}, "a judge has no weight"),
        ({"kind": "nemotron", "modl": "x"}, "unknown setting 'judge.modl'. Did you mean 'model'?"),
        ("vllm:http://h:1", "vllm:MODEL@http://HOST:PORT"),
        ("vllm:m@http://me:pass-1@h", "base_url is no address"),
        ({"kind": "vllm", "base_url": "http://me:pass-1@h", "model": "m"}, "base_url holds more than an address"),
        ({"kind": "nemotron", "api_key_variable": "pass-1"}, "is the name of an environment variable"),
    ],
)
def test_what_cannot_judge(judge: Any, message: str, model: Path) -> None:
    with pytest.raises(TrimtabError) as found:
        parse(Recipe, recipe(model, judge=judge), "r.yaml")
    assert message in str(found.value)
    assert "pass-1" not in str(found.value)


def test_one_thing_by_two_names_is_one_thing() -> None:
    """Name, weight, address and kind of server aside; and what it is called is still told."""
    rm = reward_settings(kind="classifier", model="org/rm", name="proxy", weight=0.5)
    same = reward_settings(kind="vllm", model="org/rm", base_url="http://h:1")
    assert rm.identity == same.identity
    assert rm.describe() == "proxy (org/rm)"
    assert reward_named("nemotron").identity == reward_settings(kind="nemotron", name="n", concurrency=1).identity
    assert reward_named("nemotron").identity != reward_settings(kind="nemotron", attribute="coherence").identity
    assert reward_named("a.py:f").identity != reward_named("a.py:g").identity


def test_a_judge_that_is_part_of_the_training_reward_is_told(model: Path) -> None:
    """Weighted, or one of several: the same endpoint. Alone with weight 1 the results compare the two names."""

    def parts(*rewards: Any) -> bool:
        value = recipe(model)
        value["grpo"]["rewards"] = list(rewards)
        return judged_by_a_part(parse(Recipe, value, "r.yaml"))

    assert parts({**ASKED, "name": "a"}, {"kind": "gold"})
    assert parts({**ASKED, "weight": 0.5})
    assert not parts(ASKED)
    assert not parts({"kind": "gold"}, {"kind": "nemotron", "model": "another"})


def test_rewards_that_differ_are_told_by_method(model: Path) -> None:
    value = recipe(model)
    value |= {"methods": ["grpo", "ppo"], "ppo": {"rewards": [ASKED]}}
    value["grpo"]["rewards"] = [{"kind": "gold"}]
    made = parse(Recipe, value, "r.yaml")
    assert _training_reward(made) == f"grpo: {made.grpo.rewards[0].describe()}; ppo: {made.judge.describe()}"  # type: ignore[union-attr]
    assert judged_by_a_part(made)
    value["grpo"]["rewards"] = [ASKED]
    assert _training_reward(parse(Recipe, value, "r.yaml")) == made.judge.describe()  # type: ignore[union-attr]


def test_help_names_what_may_score(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["trimtab", "evaluate", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "nemotron" in capsys.readouterr().out


def test_a_function_judges_with_the_rows_columns(model: Path, tmp_path: Path) -> None:
    """As it does in training; rows whose columns have changed are judged anew."""
    (tmp_path / "exact.py").write_text("def exact(completions, points):\n    return points\n")
    rows = tmp_path / "rows.jsonl"
    scores = {}
    for points in (1.0, 2.0, 2.0):
        lines = [{"prompt": f"Say {i}", "chosen": "a b", "rejected": "b", "points": points} for i in range(3)]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
        sets = ["decoding.max_new_tokens=4", "decoding.strategy=greedy"]
        judge = f"{tmp_path / 'exact.py'}:exact"
        evaluate_only(str(model), str(rows), tmp_path / "out", str(model), judge, None, sets)
        found = read_scores(tmp_path / "out" / "evaluation" / "model" / "scores.jsonl")
        assert [one.score for one in found] == [points] * 3
        scores[points] = (tmp_path / "out" / "evaluation" / "model" / "generations.jsonl").stat().st_mtime_ns
    assert len(set(scores.values())) == 1, "nothing was generated again"


def test_a_judge_on_a_server_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.1)
    rows = [Generation(id=str(i), prompt="p", completion="c" * i, tokens=1, terminated=True) for i in range(6)]
    write_rows(tmp_path / "generations.jsonl", rows)
    (tmp_path / "measures.json").write_text("{}")
    with serving(delay=0.15) as server:
        judge = NemotronReward("m", base_url=server.address + "/v1", concurrency=1)
        scoring.judge_completions(judge, [Record("p", ())] * 6, tmp_path)
    said = capsys.readouterr().err
    assert re.search(rf"scores by {judge.name}: [1-5]/6 completions, .* left\n", said)
