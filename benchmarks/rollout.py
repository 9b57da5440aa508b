"""Sampling, greedy decoding and beam search beside transformers' own `generate`, vLLM, or another commit.

    python -m benchmarks.rollout --model sandbox:instruct --task sample
    python -m benchmarks.rollout --model smollm2 --task beam --peer build:COMMIT
    .venv-vllm/bin/python -m benchmarks.rollout --model smollm2 --peer vllm

Both sides answer the same eight prompts of uneven lengths, with 4 samples or 4 beams each, in processes of their
own that take turns. Counted are the CPU seconds of decoding and the tokens up to each answer's end. Greedy answers
and beams must be the same tokens; samples must have the log-probabilities of a pass in float64, to 1e-4. The last
line of output is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from trimtab.models.policy import Policy
from trimtab.rollout.sampler import Sampling, VLLMSettings
from trimtab.rollout.transformers import TransformersSampler
from trimtab.sandbox.generate import test_prompts
from trimtab.sandbox.starters import starter

REPEATS = 4
"""Samples of a prompt, or beams."""
PENALTY = 0.9
"""Of a beam's length."""
SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}  # fmt: skip
"""The layout of SmolLM2-135M; its weights are random here, and every 32nd token ends an answer."""
Answers = list[list[list[int]]]
Problem = tuple[Any, list[list[int]], list[int], int]
"""A model, prompts, the tokens that end an answer, and new tokens at most."""


def problem_of(name: str, cap: int) -> Problem:
    """What both sides are given, under the model's name."""
    torch.manual_seed(0)
    if name == "smollm2":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMOLLM2)).eval()
        prompts = [torch.randint(0, 49152, (length,)).tolist() for length in (12, 200, 33, 64, 20, 110, 48, 75)]
        return model, prompts, list(range(0, 49152, 32)), cap
    folder = str(starter(name.removeprefix("sandbox:")) if name.startswith("sandbox:") else name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = test_prompts(8, 0)
    chats = [[{"role": "user", "content": text}] for text in texts]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]
    return model, prompts, [tokenizer.eos_token_id], cap


def by_trimtab(problem: Problem, task: str) -> Answers:
    """The answers of this package's sampler."""
    model, prompts, stops, cap = problem
    sampler = TransformersSampler(Policy(model))
    if task == "beam":
        options: Any = {"num_beams": REPEATS, "length_penalty": PENALTY, "max_new_tokens": cap}
        return [[row] for row in sampler.beam(prompts, stops=stops, **options)]
    warm, k = (1.0, REPEATS) if task == "sample" else (0.0, 1)
    given = Sampling(max_new_tokens=cap, temperatures=(warm,))
    found = sampler.sample(prompts, k, given, seed=0, stops=stops)
    return [[list(one.tokens) for one in of_prompt] for of_prompt in found]


def by_transformers(problem: Problem, task: str) -> Answers:
    """The answers of model.generate, all prompts in a batch."""
    model, prompts, stops, cap = problem
    options: Any = {
        "sample": {"do_sample": True, "top_k": 0, "top_p": 1.0, "num_return_sequences": REPEATS},
        "greedy": {"do_sample": False},
        "beam": {"do_sample": False, "num_beams": REPEATS, "length_penalty": PENALTY},
    }[task]
    longest = max(map(len, prompts))
    ids = torch.tensor([[stops[0]] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    ends = {"eos_token_id": stops, "pad_token_id": stops[0]}
    model.generation_config = transformers.GenerationConfig(**ends)
    config = transformers.GenerationConfig(max_new_tokens=cap, **ends, **options)
    rows = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, longest:].tolist()
    stopping = set(stops)
    rows = [row[: next((i for i, token in enumerate(row) if token in stopping), cap) + 1] for row in rows]
    each = len(rows) // len(prompts)
    return [rows[i : i + each] for i in range(0, len(rows), each)]


def by_vllm(problem: Problem, task: str) -> Answers:
    """The answers of vLLM's engine in this process, the weights pushed in before."""
    from trimtab.rollout.vllm import VLLMSampler  # vLLM is in an environment of its own

    model, prompts, stops, cap = problem
    sampler = VLLMSampler(Policy(model), VLLMSettings(cache_gib=1), "float32", 1024)
    warm, k = (1.0, REPEATS) if task == "sample" else (0.0, 1)
    given = Sampling(max_new_tokens=cap, temperatures=(warm,), engine="vllm")
    found = sampler.sample(prompts, k, given, seed=0, stops=stops)
    return [[list(one.tokens) for one in of_prompt] for of_prompt in found]


DECODERS = {"trimtab": by_trimtab, "generate": by_transformers, "vllm": by_vllm}


def one_side(side: str, name: str, task: str, cap: int) -> None:
    """Decodes once to warm up and once for the clock, and prints what the other process reads.

    Both decode the same: what a kernel does at its first call for a shape is done once in a run of many batches.
    """
    problem = problem_of(name, cap)
    decode = DECODERS.get(side, by_trimtab)
    with torch.no_grad():
        decode(problem, task)
        before = time.process_time()
        answers = decode(problem, task)
        seconds = time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    tokens = sum(len(row) for rows in answers for row in rows)
    print(json.dumps({"cpu": seconds, "tokens": tokens, "peak_mib": round(peak), "answers": answers}))


def run(side: str, paths: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """One turn of a side in a process of its own, which finds packages in these paths first."""
    command = [sys.executable, __file__, "--side", side, "--model", options.model, "--task", options.task]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--cap", str(options.cap)], env=env, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def largest_error(problem: Problem) -> float:
    """Of the samples' log-probabilities, against one plain pass in float64 over each sequence."""
    model, prompts, stops, cap = problem
    sampler = TransformersSampler(Policy(model))
    found = sampler.sample(prompts, REPEATS, Sampling(max_new_tokens=cap), seed=0, stops=stops)
    model.set_attn_implementation("sdpa")
    model.double()
    worst = 0.0
    for prompt, samples in zip(prompts, found, strict=True):
        for one in samples:
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *one.tokens]])).logits[0, len(prompt) - 1 : -1]
            plain = logits.log_softmax(-1).gather(1, torch.tensor(one.tokens)[:, None])[:, 0]
            worst = max(worst, float((plain - torch.tensor(one.logps)).abs().max()))
    return worst


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns; medians of their tokens a CPU second."""
    here = str(Path(__file__).parents[1] / "src")
    turns: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    with tempfile.TemporaryDirectory() as folder:
        there = here
        if options.peer not in DECODERS:
            git = ["git", "-C", str(Path(__file__).parents[1])]
            commit = options.peer.removeprefix("build:")
            packed = subprocess.run([*git, "archive", commit, "src"], stdout=subprocess.PIPE, check=True).stdout
            subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
            there = f"{folder}/src"
        for turn in range(options.turns):
            for who, side, path in (("ours", "trimtab", here), ("peer", options.peer, there)):
                turns[who].append(run(side, [path], options))
                print(f"turn {turn}: {who} {turns[who][-1]['cpu']:.2f} s, {turns[who][-1]['tokens']} tokens")
    if options.task != "sample" or options.peer not in DECODERS:
        assert turns["ours"][0]["answers"] == turns["peer"][0]["answers"], "the two sides' tokens differ"
    speed = {who: statistics.median(t["tokens"] / t["cpu"] for t in took) for who, took in turns.items()}
    out = {"model": options.model, "task": options.task, "peer_is": options.peer}
    out |= {who: round(value, 1) for who, value in speed.items()}
    out |= {"unit": "tokens a CPU second", "ratio": round(speed["ours"] / speed["peer"], 2)}
    out |= {f"peak_mib_{who}": max(t["peak_mib"] for t in took) for who, took in turns.items()}
    if options.task == "sample":
        out["logps_error"] = largest_error(problem_of(options.model, options.cap))
        assert out["logps_error"] < 1e-4, "the samples' log-probabilities are not the model's"
    return out


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sandbox:instruct", help="sandbox:instruct, smollm2 or a folder")
    parser.add_argument("--task", default="sample", choices=["sample", "greedy", "beam"])
    parser.add_argument("--peer", default="generate", help="generate, vllm, or build:COMMIT")
    parser.add_argument("--cap", type=int, default=128, help="new tokens of an answer at most")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        one_side(options.side, options.model, options.task, options.cap)
    else:
        print(json.dumps(compare(options)))


if __name__ == "__main__":
    main()
