"""Rounds of iterated preference training: who draws, who is paired, what is trained on, what is kept."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from training.grpo_runs import reward_named
from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.records import read_records
from trimtab.data.split_groups import encode_records
from trimtab.data.splits import DataSettings, split_records
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import stop_tokens
from trimtab.methods import rounds
from trimtab.methods.dpo import DPO
from trimtab.methods.dpo_settings import DPOSettings
from trimtab.methods.online_dpo import round_folders
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.methods.rounds import run_rounds
from trimtab.methods.sampled_rows import SampledFormat
from trimtab.models.loading import load_policy
from trimtab.rewards.base import Reward
from trimtab.rollout.sampler import Sampling
from trimtab.rollout.transformers import TransformersSampler
from trimtab.training.metrics import read_metrics
from trimtab.training.schedule import data_order
from trimtab.training.stage import run_stage

CAP, PROMPTS, SAMPLES = 6, 6, 3
COMMON: dict[str, Any] = {
    "rounds": 2, "prompts": PROMPTS, "samples": SAMPLES, "batch_size": 3, "max_steps": 2, "learning_rate": 3e-3,
    "schedule": "constant", "warmup_steps": 0, "logging_interval": 1, "precision": "float32",
    "sampling": Sampling(max_new_tokens=CAP), "rewards": [{"kind": "trained"}], "seed": 5,
}  # fmt: skip


def run(model: Path, pairs: Path, out: Path, reward: str | None = "low", validation: int = 4, **given: Any) -> Path:
    """Runs the rounds below `out`; the reward stands in for the one that a study trains. Returns `out`."""
    out.mkdir(parents=True, exist_ok=True)
    known: Mapping[str, Reward] = {"trained": reward_named(out.parent, reward)} if reward else {}
    settings = OnlineDPOSettings(**COMMON | given)
    data = DataSettings(train=str(pairs), max_length=200, validation_rows=validation or None)
    last = run_rounds(settings, data, None, str(model), out, out / "cache", known, out / "scores.sqlite")
    assert last == out / f"online_dpo-{settings.rounds}" / "best"
    return out


@pytest.fixture(scope="module")
def ran(stopping_model: Path, toy_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds, in chunks of four prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "CHUNK", 4)
        return run(stopping_model, toy_pairs, tmp_path_factory.mktemp("rounds") / "out")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def samples_of(out: Path, number: int) -> list[list[dict[str, Any]]]:
    files = sorted((out / f"online_dpo-{number}-pairs" / "samples").glob("*.json"))
    return [several for file in files for several in read(file)["prompts"]]


def rows_of(out: Path, number: int) -> list[dict[str, Any]]:
    lines = (out / f"online_dpo-{number}-pairs" / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def low(tokens: list[int]) -> float:
    return float(sum(token < 896 for token in tokens))


@pytest.mark.parametrize("number", [1, 2])
def test_samples_are_the_starting_models(number: int, ran: Path, stopping_model: Path, toy_pairs: Path) -> None:
    """Drawn again here, from the model that the round starts from, three rows at a time: chunk by chunk the next
    prompts in the order of the seed."""
    start = stopping_model if number == 1 else ran / "online_dpo-1" / "best"
    data = DataSettings(train=str(toy_pairs), max_length=200, validation_rows=4)
    chat = ChatFormat(load_tokenizer(str(start)), data)
    records = split_records(data).train
    every, _ = encode_records(records, chat, "none")
    order = data_order(len(every), 5, 0)[(number - 1) * PROMPTS : number * PROMPTS]
    prompts = [every[i].prompt for i in order.tolist()]
    policy = load_policy(str(start))
    expected: list[list[list[int]]] = []
    for chunk in range(2):
        (seed,) = np.random.SeedSequence([5, number, chunk, 1]).generate_state(1)
        drawn = TransformersSampler(policy).sample(
            prompts[4 * chunk : 4 * chunk + 4], SAMPLES, Sampling(max_new_tokens=CAP, batch_size=3),
            seed=int(seed), stops=stop_tokens(policy.model, chat),
        )  # fmt: skip
        expected += [[list(one.tokens) for one in several] for several in drawn]
    found = samples_of(ran, number)
    assert [[one["tokens"] for one in several] for several in found] == expected
    assert all(one["score"] == low(one["tokens"]) for several in found for one in several)
    used = {
        row["prompt"][0]["content"] if isinstance(row["prompt"], list) else row["prompt"]
        for row in rows_of(ran, number)
    }
    assert used <= {records[i].prompt_text for i in order.tolist()}


@pytest.mark.parametrize("number", [1, 2])
def test_pairs_are_the_best_and_the_worst(number: int, ran: Path) -> None:
    """Read off the samples here; prompts whose scores tie give none, and are counted."""
    kept = [(of, [low(one["tokens"]) for one in of]) for of in samples_of(ran, number)]
    untied = [(of, scores) for of, scores in kept if max(scores) > min(scores)]
    rows = rows_of(ran, number)
    assert len(rows) == len(untied) > 1
    for row, (of, scores) in zip(rows, untied, strict=True):
        best, worst = of[scores.index(max(scores))], of[scores.index(min(scores))]
        assert row["sampled"]["chosen"] == best["tokens"]
        assert row["sampled"]["rejected"] == worst["tokens"]
        assert (row["chosen"], row["rejected"]) == (best["text"], worst["text"])
        assert [row["score_chosen"], row["score_rejected"]] == row["rewards"] == [max(scores), min(scores)]
    done = read(ran / f"online_dpo-{number}-pairs" / "done.json")
    assert (done["prompts"], done["samples"], done["pairs"]) == (PROMPTS, PROMPTS * SAMPLES, len(rows))
    assert sum(done["unpaired"].values()) == PROMPTS - len(rows)
    assert done["mean_reward"] == pytest.approx(np.mean([s for _, scores in kept for s in scores]))


def test_each_rounds_reference_is_the_model_that_it_starts_from(ran: Path) -> None:
    """At the first step every log-ratio is 0: ln 2, in both rounds, of which the second starts elsewhere."""
    for number in (1, 2):
        first, *_, last = [
            row for row in read_metrics(ran / f"online_dpo-{number}" / "metrics.jsonl") if "loss" in row
        ]
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert abs(last["loss"] - math.log(2)) > 1e-3
        done = read(ran / f"online_dpo-{number}" / "done.json")
        assert done["best_step"] == done["step"] == 2, "the last weights are kept"
    model = [read(ran / f"online_dpo-{number}" / "stage.json")["model"] for number in (1, 2)]
    assert model[0] != model[1]
    assert read(ran / "online_dpo-2-pairs" / "stage.json")["model"] == model[1]


def test_what_is_trained_on_are_the_tokens_that_were_drawn(ran: Path, stopping_model: Path) -> None:
    """A sample that was cut has no end of turn, where its text tokenized again would have one."""
    tokenizer = load_tokenizer(str(stopping_model))
    records = read_records(str(ran / "online_dpo-1-pairs" / "pairs.jsonl"))
    rows = rows_of(ran, 1)
    cut = 0
    for record, row in zip(records, rows, strict=True):
        group = SampledFormat(tokenizer).encode(record, 3)
        assert not isinstance(group, str)
        assert group.prompt == tuple(row["sampled"]["prompt"])  # type: ignore[union-attr]
        assert group.completions == (tuple(row["sampled"]["chosen"]), tuple(row["sampled"]["rejected"]))  # type: ignore[union-attr]
        for tokens, was_cut in zip(group.completions, group.truncated, strict=True):  # type: ignore[union-attr]
            assert was_cut == (len(tokens) == CAP and tokens[-1] not in _stops(stopping_model))
            cut += was_cut
        assert record.is_pair
        assert record.scores == tuple(row["rewards"])
        assert ChatFormat(tokenizer).prompt_ids(record.prompt) == row["sampled"]["prompt"]
    assert cut > 0


def _stops(model: Path) -> list[int]:
    found: list[int] = read(model / "generation_config.json")["eos_token_id"]
    return found


def test_running_again_does_nothing_again(ran: Path, stopping_model: Path, toy_pairs: Path) -> None:
    calls = ran.parent / "calls.jsonl"
    asked = len(calls.read_text().splitlines())
    kept = {p: p.stat().st_mtime_ns for p in ran.rglob("*") if p.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "CHUNK", 4)
        run(stopping_model, toy_pairs, ran)
    assert {p: p.stat().st_mtime_ns for p in ran.rglob("*") if p.is_file()} == kept
    assert len(calls.read_text().splitlines()) == asked == 4  # two chunks a round


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 4}, r"online_dpo-1-pairs: holds another run \(its settings.samples differ\)"),
        ({"seed": 6}, r"online_dpo-1-pairs: holds another run \(its settings.seed differ\)"),
        ({"pairing": "best_random"}, r"its settings.pairing differ"),
        ({"prompts": 5}, r"its prompts differ"),
        ({"loss": "sppo_estimated"}, r"its win_rates differ"),
        ({"rewards": [{"kind": "trained", "weight": 2.0}]}, r"its reward differ"),
        ({"learning_rate": 1e-4}, r"online_dpo-1: holds another run \(its settings.learning_rate differ\)"),
    ],
)
def test_a_changed_setting_is_not_taken_for_the_old(
    changes: dict[str, Any], message: str, ran: Path, stopping_model: Path, toy_pairs: Path
) -> None:
    with pytest.raises(TrimtabError, match=message):
        run(stopping_model, toy_pairs, ran, **changes)


def test_rounds_can_be_added(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    out = run(stopping_model, toy_pairs, tmp_path / "out", rounds=1)
    kept = {p: p.stat().st_mtime_ns for p in (out / "online_dpo-1").rglob("*") if p.is_file()}
    run(stopping_model, toy_pairs, out)
    assert {p: p.stat().st_mtime_ns for p in (out / "online_dpo-1").rglob("*") if p.is_file()} == kept
    assert [path.name for path in round_folders(out)] == ["online_dpo-1", "online_dpo-2"]


def test_failed_scores_are_in_no_pair(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Of the first prompt's samples the first has none; of the second's only one is left; the third's tie."""
    out = run(stopping_model, toy_pairs, tmp_path / "out", "some", rounds=1, samples=4, max_steps=1)
    done = read(out / "online_dpo-1-pairs" / "done.json")
    assert done["missing"] == 4
    assert done["unpaired"]["fewer than two scores"] == 1
    assert done["unpaired"]["equal scores"] >= 1
    first = samples_of(out, 1)[0]
    assert (first[0]["score"], first[0]["reason"]) == (None, "some gave None")
    assert rows_of(out, 1)[0]["sampled"]["chosen"] != first[0]["tokens"]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            "nothing",
            r"the 6 prompts gives a pair \(6 × fewer than two scores\). One failed score: nothing gave",
        ),
        ("alike", r"none of the 6 prompts gives a pair \(6 × equal scores\). Raise samples"),
    ],
)
def test_no_pair_at_all_is_an_error(
    reward: str, message: str, stopping_model: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrimtabError, match=message):
        run(stopping_model, toy_pairs, tmp_path / "out", reward)


def test_sppo_trains_on_win_rates(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Rows hold P̂ for their scores; at the first step ρ = 0, so that the loss is the mean of its squared targets.
    Of held-out pairs it is known who won."""
    out = run(
        stopping_model, toy_pairs, tmp_path / "out", rounds=1, loss="sppo_estimated", beta=0.5, batch_size=PROMPTS,
        max_steps=1, prompts=None,
    )  # fmt: skip
    rows = rows_of(out, 1)
    assert len(rows) > 30, "without a number all training prompts are the one round's"
    for row in rows:
        assert (row["score_chosen"], row["score_rejected"]) == tuple(row["win_rates"])
        assert 0 < row["score_rejected"] < 0.5 < row["score_chosen"] < 1
    scores = [[low(one["tokens"]) for one in of] for of in samples_of(out, 1)]
    for row, of in zip(rows, [of for of in scores if max(of) > min(of)], strict=True):
        for rate, ours in zip(row["win_rates"], (max(of), min(of)), strict=True):
            assert rate == pytest.approx(sum(1 / (1 + math.exp(theirs - ours)) for theirs in of) / SAMPLES)
    metrics = read_metrics(out / "online_dpo-1" / "metrics.jsonl")
    assert metrics[0]["eval_loss"] == pytest.approx(2 * (0.5 / 0.5) ** 2, abs=1e-4)
    order = data_order(len(rows), 5, 0)[:PROMPTS].tolist()
    targets = [((rows[i]["score_chosen"] - 0.5) / 0.5, (rows[i]["score_rejected"] - 0.5) / 0.5) for i in order]
    (first,) = [row for row in metrics if "loss" in row]
    assert first["loss"] == pytest.approx(np.mean([a * a + b * b for a, b in targets]), rel=1e-4)


def test_the_policy_is_its_own_judge(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Of each round the one that it starts from."""
    out = run(stopping_model, toy_pairs, tmp_path / "out", None, rewards=[{"kind": "yes_no"}])
    asked = [read(out / f"online_dpo-{number}-pairs" / "stage.json")["reward"] for number in (1, 2)]
    assert asked[0] != asked[1]
    assert all(signature.startswith("yes_no|") for signature in asked)
    assert rows_of(out, 2)


def test_prompts_without_completions_are_enough(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """Nothing to validate on then. Text that looks like a dialogue stays text where the data's settings say so."""
    texts = [json.loads(line)["prompt"] for line in toy_pairs.read_text().splitlines()[:6]]
    prompts = [text if isinstance(text, str) else text[0]["content"] for text in texts]
    rows = [{"prompt": f"\n\nHuman: {prompt}\n\nAssistant:"} for prompt in prompts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = OnlineDPOSettings(**COMMON | {"rounds": 1, "max_steps": 1})
    data = DataSettings(train=str(tmp_path / "prompts.jsonl"), validation_rows=2, dialogue="text", max_length=200)
    known = {"trained": reward_named(tmp_path, "low")}
    run_rounds(settings, data, None, str(stopping_model), tmp_path / "out", tmp_path, known, tmp_path / "s.sqlite")
    assert not (tmp_path / "out" / "online_dpo-1-pairs" / "validation.jsonl").exists()
    assert all(row["prompt"].startswith("\n\nHuman: ") for row in rows_of(tmp_path / "out", 1))
    assert len(read_metrics(tmp_path / "out" / "online_dpo-1" / "metrics.jsonl")) > 0
    assert read(tmp_path / "out" / "online_dpo-1" / "stage.json")["data"]["dialogue"] == "text"


def test_other_losses_take_the_pairs(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    for loss in ("kto", "ranking"):
        out = run(stopping_model, toy_pairs, tmp_path / loss, rounds=1, loss=loss, max_steps=1)
        assert len(rows_of(out, 1)) > 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "sft"}, "needs no pairs"),
        ({"loss": "rc_dpo"}, "which sampled pairs keep"),
        ({"sampling": {"temperatures": [0.0]}}, "samples at temperature 0 are all the same"),
        ({"samples": 1}, "greater than or equal to 2"),
        ({"best_metric": "loss"}, "best_metric and best_is"),
    ],
)
def test_settings_that_mean_nothing(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OnlineDPOSettings(**given)


def test_win_rates_that_are_none_are_refused(stopping_model: Path, toy_pairs: Path, tmp_path: Path) -> None:
    """The sandbox's pairs have the judge's scores: no probabilities."""
    settings = DPOSettings(loss="sppo_estimated", max_steps=1, precision="float32")
    data = DataSettings(train=str(toy_pairs), max_length=200)
    with pytest.raises(TrimtabError, match="reads each completion's win rate, 0 to 1, from the row's scores"):
        run_stage("dpo", DPO, settings, data, str(stopping_model), tmp_path / "out")
