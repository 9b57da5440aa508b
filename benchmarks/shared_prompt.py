"""What k completions of one prompt cost beside k single sequences: forward and backward of the packed batch.

python -m benchmarks.shared_prompt --shape 29m --lengths 500
python -m benchmarks.shared_prompt --model SmolLM2-135M-Instruct --lengths 256,1024,4096

Four fifths of a sequence are its prompt. k single sequences are k times one, timed in turns with the groups.
Seconds are the processor's, on one thread. The last line is one JSON object: the share for each length and k.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from benchmarks.training import SHAPES
from transformers import Qwen2Config, Qwen2ForCausalLM

from trimtab.data.groups import CompletionGroup, pack
from trimtab.devices import keep_freed_memory
from trimtab.models.loading import load_policy
from trimtab.models.policy import Policy


def group(k: int, length: int) -> CompletionGroup:
    """One prompt with k completions of random tokens, seed 0."""
    draws = torch.Generator().manual_seed(0)
    prompt = length * 4 // 5
    tokens = torch.randint(3, 1000, (prompt + k * (length - prompt),), generator=draws).tolist()
    ends = range(prompt, len(tokens), length - prompt)
    return CompletionGroup(tuple(tokens[:prompt]), tuple(tuple(tokens[i : i + length - prompt]) for i in ends))


def seconds(policy: Policy, k: int, length: int) -> float:
    """Processor seconds of one forward and backward pass."""
    batch = pack([group(k, length)])
    started = time.process_time()
    policy(batch).logps.mean().backward()
    taken = time.process_time() - started
    policy.zero_grad()
    return taken


def main() -> None:
    """Prints a line for each length and k."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="29m", help="random weights")
    parser.add_argument("--model", help="a folder, instead of a shape")
    parser.add_argument("--k", default="1,2,4,8,16")
    parser.add_argument("--lengths", default="256,500,1024,2048,4096", help="tokens of a prompt with a completion")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    if args.model:
        policy = load_policy(args.model)
    else:
        torch.manual_seed(0)
        config = Qwen2Config(**SHAPES[args.shape], tie_word_embeddings=True, max_position_embeddings=8192)
        policy = Policy(Qwen2ForCausalLM(config))
    ks = sorted({1, *map(int, args.k.split(","))})
    shares: dict[str, dict[str, float]] = {}
    for length in map(int, args.lengths.split(",")):
        seconds(policy, 1, length)  # warm-up
        turns = [{k: seconds(policy, k, length) for k in ks} for _ in range(args.turns)]
        shares[str(length)] = {}
        for k in ks:
            share = statistics.median(turn[k] / (k * turn[1]) for turn in turns)
            taken = statistics.median(turn[k] for turn in turns)
            shares[str(length)][str(k)] = round(share, 3)
            print(f"{length} tokens, k = {k}: {taken:.2f} s, {share:.3f} of {k} single sequences", flush=True)
    print(json.dumps({"model": args.model or args.shape, "share_of_separate": shares}))


if __name__ == "__main__":
    main()
