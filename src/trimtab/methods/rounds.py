"""Rounds of iterated preference training: draw, score, pair, train, and again from the model that came of it.

    STAGES/online_dpo-1-pairs/stage.json    what the folder is for: the hash of all inputs
                              samples/      00000.json …: a chunk of prompts, its samples, and then their scores
                              pairs.jsonl   what the round trains on, in the data format of trimtab
                              validation.jsonl
                              done.json     counts; written last
    STAGES/online_dpo-1/      the round's training, a stage like any other

A chunk is written when it is drawn, and anew when it is scored: what was killed draws and asks for no chunk twice.
Random numbers belong to (seed, round, chunk, prompt, sample): neither batches nor processes change them.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator, PartialState

from trimtab.data.chat import ChatFormat, load_tokenizer
from trimtab.data.day import day_for, day_of_model, keep_day
from trimtab.data.groups import CompletionGroup
from trimtab.data.split_groups import encode_records, require_groups
from trimtab.data.splits import DataSettings, Splits
from trimtab.devices import on_cpu
from trimtab.errors import TrimtabError
from trimtab.evaluation.generate import stop_tokens
from trimtab.files import damage, make_folder, read_json, sums_of, write_json
from trimtab.folder_lock import holding
from trimtab.json_types import JsonObject
from trimtab.methods.collector import make_sampler
from trimtab.methods.online_dpo import NAME, OnlineDPO
from trimtab.methods.online_dpo_settings import OnlineDPOSettings
from trimtab.methods.pairing import Pair, pair_of
from trimtab.methods.rollouts import score_samples
from trimtab.methods.sampled_rows import held_out_row, pair_row, sample_from_state, sample_state, write_rows
from trimtab.models.kinds import check_model_source
from trimtab.models.loading import load_policy
from trimtab.models.settings import trusting
from trimtab.models.vocabulary import check_vocabulary
from trimtab.notices import Warnings, collected, say, warn
from trimtab.progress import Progress
from trimtab.rewards.base import Reward
from trimtab.rewards.settings import make_reward
from trimtab.training.accelerator import make_accelerator, share_of
from trimtab.training.changed import changes_of
from trimtab.training.ending import WARNINGS
from trimtab.training.folder import inputs_key, open_stage_folder, resolve_auto
from trimtab.training.schedule import groups_of_step
from trimtab.training.stage import run_stage, split_once, stage_inputs

VERSION = 1
"""Of how pairs come about: part of what a folder is for."""
CHUNK = 32
"""Prompts of a file of samples: a kill loses at most what is between two of them."""
PAIRS = "-pairs"
DRAWN_WITH = {"samples", "sampling", "pairing", "seed", "precision"}
"""Settings that a round's pairs depend on."""
DRAWS, REJECTS = 1, 2
"""Streams of random numbers."""


def run_rounds(
    settings: OnlineDPOSettings,
    data: DataSettings,
    splits: Splits | None,
    model: str,
    where: Path,
    cache: Path,
    named_rewards: Mapping[str, Reward],
    scores: Path,
    tokenizer: str | None = None,
) -> Path:
    """Runs what is missing of all rounds below `where`, and returns the folder of the last one's model.

    named_rewards: those that are not made here (see make_reward). scores: the file of remote ones. tokenizer: where
    it is, if the first model has none.
    """
    splits = splits or split_once(data, cache)
    reward_of = rewards_of_rounds(settings, named_rewards, scores)
    for number in range(1, settings.rounds + 1):
        best = run_round(number, settings, data, splits, model, where, cache, reward_of(model), tokenizer)
        model, tokenizer = str(best), None  # the round's own model has it
    return Path(model)


def run_round(
    number: int,
    settings: OnlineDPOSettings,
    data: DataSettings,
    splits: Splits,
    model: str,
    where: Path,
    cache: Path,
    reward: Reward,
    tokenizer: str | None = None,
    judge: Reward | None = None,
) -> Path:
    """Runs what is missing of one round, counted from 1, and returns the folder of its model.

    model: what the round starts from. reward: what its pairs are made by. judge: who chooses the weights, with
    best_metric: judge.
    """
    check_model_source(model, settings, "policy")
    name = f"{NAME}-{number}"
    drawing = Round(number, settings, data, splits, model, where / f"{name}{PAIRS}", reward, tokenizer)
    rows, day = drawing.pairs(), day_for(drawing.folder)
    return run_stage(
        name, OnlineDPO, settings.of_a_round, rows, model, where / name, tokenizer, cache, day=day, judge=judge
    )  # fmt: skip


def rewards_of_rounds(
    settings: OnlineDPOSettings, named_rewards: Mapping[str, Reward], scores: Path
) -> Callable[[str], Reward]:
    """The reward of a round, given the model that it starts from: one for all, unless that model is asked."""
    if any(reward.asks_policy for reward in settings.rewards):
        return lambda policy: make_reward(settings.rewards, named_rewards, scores, policy)
    reward = make_reward(settings.rewards, named_rewards, scores)
    return lambda policy: reward


def prompts_a_round(settings: OnlineDPOSettings, prompts: int) -> int:
    """How many prompts a round samples, of so many training prompts."""
    return min(settings.prompts or math.ceil(prompts / settings.rounds), prompts)


class Round:
    """What a round does before it trains. number: counted from 1; model: what it starts from."""

    def __init__(
        self,
        number: int,
        settings: OnlineDPOSettings,
        data: DataSettings,
        splits: Splits,
        model: str,
        folder: Path,
        reward: Reward,
        tokenizer: str | None,
    ) -> None:
        self.number, self.settings, self.data, self.splits = number, settings, data, splits
        self.model, self.folder, self.reward = model, folder, reward
        self.tokens_from = tokenizer or model

    def pairs(self) -> DataSettings:
        """Draws, scores and pairs what is missing. Returns the settings that read the round's rows."""
        with holding(self.folder):
            return self._pairs()

    def _pairs(self) -> DataSettings:
        chat = ChatFormat(load_tokenizer(self.tokens_from, self.settings), self.data)
        chat = chat.with_day(day_for(self.folder, day_of_model(self.model)))
        groups = self._prompts(chat)
        inputs = self._inputs(len(groups))
        with PartialState(cpu=on_cpu()).main_process_first():
            done = open_stage_folder(self.folder, inputs, "samples", self.model)
            done = done and self._rows_are_whole()
        if not done:
            self.settings = self.settings.model_copy(
                update={"precision": resolve_auto(self.folder, self.settings, self.model).precision}
            )
            if chat.asks_for_today:
                keep_day(self.folder, chat.day)
            accelerator = make_accelerator(self.settings)
            chunks = [groups[lo : lo + CHUNK] for lo in range(0, len(groups), CHUNK)]
            mine = share_of(accelerator, len(chunks))
            with collected(self.folder / WARNINGS, resumed=True) as run_warnings:
                self._draw(chat, chunks, mine, accelerator)
                self._score(chat, chunks, mine)
                accelerator.wait_for_everyone()
                self._finish(groups, len(chunks), inputs, run_warnings, accelerator.is_main_process)
            accelerator.wait_for_everyone()
        else:
            say(f"{self.folder.name}: already done")
        validation = self.folder / "validation.jsonl"
        # The prompts are what the data's settings made of them: no text is taken for a dialogue a second time.
        return DataSettings(
            train=str(self.folder / "pairs.jsonl"),
            validation=str(validation) if validation.is_file() else None,
            dialogue="text",
            chat_template_kwargs=self.data.chat_template_kwargs,
            max_length=self.data.max_length,
            min_completion_length=self.data.min_completion_length,
            control_tokens=self.data.control_tokens,
        )

    def _prompts(self, chat: ChatFormat) -> list[CompletionGroup]:
        """The round's slice of the training prompts, in the order of the seed; the order starts anew at its end."""
        every, counts = encode_records(self.splits.train, chat, "none")
        require_groups(every, counts, "training", self.data.train)
        count = prompts_a_round(self.settings, len(every))
        return groups_of_step(every, self.number - 1, count, self.settings.seed)

    def _inputs(self, prompts: int) -> JsonObject:
        """Everything that the pairs depend on."""
        inputs = stage_inputs(self.folder.name, OnlineDPO, self.settings, self.data, self.model, self.tokens_from)
        return inputs | {
            "version": VERSION,
            "settings": self.settings.model_dump(include=DRAWN_WITH),
            "round": self.number,
            "prompts": prompts,
            "win_rates": self.settings.reads_win_rates,
            "reward": self.reward.signature,
        }

    # ---- chunks

    def _rows_are_whole(self) -> bool:
        """Whether the finished round's rows are what was written. If not they are made anew from the samples, which
        gives the same, and is said."""
        again = f"Put it back, or remove {self.folder}, and the same command makes it anew."
        done = read_json(self.folder / "done.json", again)
        wrong = damage(self.folder, done.get("files", {}))
        if wrong:
            warn(f"{self.folder.name}: {wrong}. It is made anew.")
        return wrong is None

    def _read_if_whole(self, chunk: int) -> JsonObject | None:
        """A chunk as it was written; None where there is none, or a damaged one: it is drawn again."""
        file = self._file(chunk)
        if not file.is_file():
            return None
        try:
            return read_json(file, "It is drawn and scored again.")
        except TrimtabError as error:
            warn(str(error))
            return None

    def _file(self, chunk: int) -> Path:
        return self.folder / "samples" / f"{chunk:05d}.json"

    def _draw(
        self, chat: ChatFormat, chunks: Sequence[list[CompletionGroup]], mine: range, accelerator: Accelerator
    ) -> None:
        """The samples of this process's chunks that are not on disk."""
        missing = [chunk for chunk in mine if self._read_if_whole(chunk) is None]
        if not missing:
            return
        settings = self.settings
        count = sum(len(chunks[chunk]) for chunk in missing)
        say(f"{self.folder.name}: {count} prompts × {settings.samples} samples")
        policy = load_policy(self.model, trusting(settings))
        check_vocabulary(policy, [chunks[chunk] for chunk in missing], self.model)
        policy.to(accelerator.device).eval()
        sampler = make_sampler(policy, settings.sampling, settings, accelerator.num_processes, NAME)
        stops = stop_tokens(policy.model, chat)
        make_folder(self._file(0).parent)
        with Progress(f"{self.folder.name}: samples", count, "prompts") as progress:
            for chunk in missing:
                started = time.monotonic()
                seeds = np.random.SeedSequence([settings.seed, self.number, chunk, DRAWS])
                with accelerator.autocast():
                    drawn = sampler.sample(
                        [group.prompt for group in chunks[chunk]], settings.samples, settings.sampling,
                        seed=int(seeds.generate_state(1)[0]), stops=stops,
                    )  # fmt: skip
                rows = [[sample_state(sample) for sample in of_prompt] for of_prompt in drawn]
                self._write(chunk, {"sampling_seconds": time.monotonic() - started, "prompts": rows})
                progress.advance(len(chunks[chunk]))

    def _score(self, chat: ChatFormat, chunks: Sequence[list[CompletionGroup]], mine: range) -> None:
        """Adds texts and scores to this process's chunks that have none."""
        count = sum(len(chunks[chunk]) for chunk in mine)
        with Progress(f"{self.folder.name}: scores", count, "prompts") as progress:
            for chunk in mine:
                content = self._read(chunk)
                if "scoring_seconds" in content:
                    progress.skip(len(chunks[chunk]))
                    continue
                started = time.monotonic()
                samples = [[sample_from_state(sample) for sample in of_prompt] for of_prompt in content["prompts"]]
                scorings = score_samples(self.reward, chat, chunks[chunk], samples, self.splits.train)
                for of_prompt, scoring in zip(content["prompts"], scorings, strict=True):
                    for sample, text, scored in zip(of_prompt, scoring.texts, scoring.scored, strict=True):
                        sample |= {"text": text, "score": scored.score}
                        sample |= {"reason": scored.reason} if scored.reason else {}
                        sample |= {"parts": dict(scored.breakdown)} if scored.breakdown else {}
                self._write(chunk, content | {"scoring_seconds": time.monotonic() - started})
                progress.advance(len(chunks[chunk]))

    def _write(self, chunk: int, value: JsonObject) -> None:
        write_json(self._file(chunk), json.loads(json.dumps(value, ensure_ascii=False, default=str)))

    def _read(self, chunk: int) -> JsonObject:
        return read_json(self._file(chunk), "Run the command again: it is drawn anew.")

    # ---- pairs

    def _finish(
        self, groups: Sequence[CompletionGroup], chunks: int, inputs: JsonObject, run_warnings: Warnings, main: bool
    ) -> None:
        """Writes the rows and done.json. TrimtabError where no prompt gives a pair."""
        contents = [self._read(chunk) for chunk in range(chunks)]
        samples_of_prompts = [samples for content in contents for samples in content["prompts"]]
        unpaired: Counter[str] = Counter()
        rows = []
        for place, (group, samples) in enumerate(zip(groups, samples_of_prompts, strict=True)):
            rng = np.random.default_rng([self.settings.seed, self.number, place, REJECTS])
            pair = pair_of([sample["score"] for sample in samples], self.settings.pairing, rng)
            if isinstance(pair, Pair):
                prompt = self.splits.train[group.index].prompt
                rows.append(pair_row(prompt, group.prompt, samples, pair, self.settings.reads_win_rates))
            else:
                unpaired[pair] += 1
        every = [sample for samples in samples_of_prompts for sample in samples]
        if not rows:
            why = ", ".join(f"{count} × {reason}" for reason, count in sorted(unpaired.items()))
            failed = next((f" One failed score: {s['reason']}." for s in every if s.get("reason")), "")
            raise TrimtabError(
                f"{self.folder.name}: none of the {len(groups)} prompts gives a pair ({why}).{failed} "
                f"Raise samples or the temperature, or mend the reward, and remove {self.folder}."
            )
        if not main:
            return
        write_rows(self.folder / "pairs.jsonl", rows)
        held_out = self.splits.validation
        if held_out and all(record.is_pair for record in held_out):
            validation_rows = [held_out_row(record, self.settings.reads_win_rates) for record in held_out]
            write_rows(self.folder / "validation.jsonl", validation_rows)
        scores = [sample["score"] for sample in every if sample["score"] is not None]
        changes = changes_of(self.folder)
        counts = {
            "prompts": len(groups),
            "samples": len(every),
            "pairs": len(rows),
            "unpaired": dict(sorted(unpaired.items())),
            "missing": len(every) - len(scores),
            "cut": sum(sample["finish"] == "cap" for sample in every),
            "mean_reward": sum(scores) / len(scores),
            "mean_tokens": sum(len(sample["tokens"]) for sample in every) / len(every),
            "sampling_seconds": sum(content["sampling_seconds"] for content in contents),
            "scoring_seconds": sum(content["scoring_seconds"] for content in contents),
            **({"reward_changes": changes} if changes else {}),
            "warnings": run_warnings.lines,
        }
        written = [name for name in ("pairs.jsonl", "validation.jsonl") if (self.folder / name).is_file()]
        files = {"files": sums_of(self.folder, written)}
        write_json(self.folder / "done.json", {"key": inputs_key(inputs), **counts, **files})
        (self.folder / WARNINGS).unlink(missing_ok=True)
        say(
            f"{self.folder.name}: {len(rows)} pairs of {len(groups)} prompts, mean reward "
            f"{counts['mean_reward']:.3f}, {counts['mean_tokens']:.0f} tokens"
        )
