"""The sampler draws from the distribution that it reports, whatever else is in the batch."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from models.families import FAMILIES, OTHERS, SHAPE, VOCABULARY, make
from trimtab.data.groups import CompletionGroup, pack
from trimtab.errors import TrimtabError
from trimtab.models.keys_values import KeysValues
from trimtab.models.one_token import serves
from trimtab.models.policy import Policy
from trimtab.rollout import rows as rows_module
from trimtab.rollout.drawing import UNIT, invert_cdf
from trimtab.rollout.one_token_rows import OneTokenRows
from trimtab.rollout.rows import GrowingLayer, Prompts, serves_cache
from trimtab.rollout.sampler import Sample, Sampling
from trimtab.rollout.transformers import TransformersSampler

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15, 16], [4], [20, 21, 22, 23, 24], [30, 31, 32]]
"""Uneven, out of order, and two of one length."""
STOPS = [2, 3, 7, 9]


MODELS = {family: make(family) for family in [*FAMILIES, *OTHERS]}
"""transformers alone, for expected numbers."""


def policy_of(model: Any) -> Policy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Policy(copy.deepcopy(model))


POLICIES = {family: policy_of(model) for family, model in MODELS.items()}


def sampler(family: str = "qwen2") -> TransformersSampler:
    return TransformersSampler(POLICIES[family])


def flat(samples: list[list[Sample]]) -> list[Sample]:
    return [one for of_prompt in samples for one in of_prompt]


def tokens(samples: list[list[Sample]]) -> list[list[tuple[int, ...]]]:
    return [[one.tokens for one in of_prompt] for of_prompt in samples]


def generated(family: str, prompt: list[int], **given: Any) -> list[int]:
    """One unpadded prompt through transformers' generate."""
    model = MODELS[family]
    model.generation_config = GenerationConfig()
    config = GenerationConfig(do_sample=False, pad_token_id=2, **given)
    ids = torch.tensor([prompt])
    row: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[0].tolist()
    return row[len(prompt) :]


@torch.no_grad()
def logits_of(family: str, prompt: Sequence[int], completion: Sequence[int]) -> Tensor:
    """The logits [T, V] that each token of the completion is drawn from, by one plain pass."""
    logits: Tensor = MODELS[family](input_ids=torch.tensor([[*prompt, *completion]])).logits[0].float()
    return logits[len(prompt) - 1 : -1]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("family", MODELS)
def test_greedy_is_generates(family: str, batch_size: int) -> None:
    """20 tokens: several windows long, and some samples stop, so that rows leave and padding is trimmed."""
    sampling = Sampling(temperatures=(0.0,), max_new_tokens=20, batch_size=batch_size)
    found = sampler(family).sample(PROMPTS, 2, sampling, seed=0, stops=STOPS)
    for prompt, samples in zip(PROMPTS, found, strict=True):
        expected = generated(family, prompt, max_new_tokens=20, eos_token_id=STOPS)
        assert [list(one.tokens) for one in samples] == [expected, expected]
        for one in samples:
            assert one.finish == ("stop" if expected[-1] in STOPS else "cap")
            assert set(one.logps) == {0.0}, "a point's probability is 1"
            policy_logps = logits_of(family, prompt, expected).log_softmax(-1).max(-1).values
            assert torch.allclose(torch.tensor(one.policy_logps), policy_logps, atol=1e-5)


@pytest.mark.parametrize("family", MODELS)
def test_beam_is_generates(family: str) -> None:
    """Prompts of uneven lengths together, each as alone; the model's own generation config is left out."""
    model = POLICIES[family].model
    model.generation_config = GenerationConfig(repetition_penalty=9.0, eos_token_id=5)
    search = {"num_beams": 3, "length_penalty": 0.9, "max_new_tokens": 8}
    found = sampler(family).beam(PROMPTS, stops=[2, 40, 41], **search)  # type: ignore[arg-type]
    assert found == [generated(family, p, eos_token_id=[2, 40, 41], **search) for p in PROMPTS]
    assert model.generation_config.repetition_penalty == 9.0


@given(
    family=st.sampled_from(["qwen2", "gemma2", "gpt2"]),
    prompts=st.lists(st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=6),
    stops=st.lists(st.integers(2, VOCABULARY - 1), max_size=6, unique=True),
    num_beams=st.integers(1, 5),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.9, 2.0]),
    cap=st.integers(1, 12),
)
@settings(max_examples=25, deadline=None)
def test_whatever_is_asked_beams_are_generates(
    family: str, prompts: list[list[int]], stops: list[int], num_beams: int, length_penalty: float, cap: int
) -> None:
    """Stops that end beams early, so that some prompts are done before others and leave."""
    search: Any = {"num_beams": num_beams, "length_penalty": length_penalty, "max_new_tokens": cap}
    found = sampler(family).beam(prompts, stops=stops, **search)
    assert found == [generated(family, p, eos_token_id=stops or None, **search) for p in prompts]


def test_beams_are_rows_and_prompts_that_are_done_leave() -> None:
    """One pass of the prompts, then a column for each beam."""
    search: Any = {"num_beams": 4, "length_penalty": 0.0, "max_new_tokens": 30}
    with Watched(POLICIES["qwen2"]) as shapes:
        sampler().beam(PROMPTS, stops=list(range(2, VOCABULARY, 7)), **search)
    assert shapes[0] == (len(PROMPTS), max(map(len, PROMPTS)))
    assert shapes[1] == (4 * len(PROMPTS), 1)
    assert {columns for _, columns in shapes[1:]} == {1}
    assert min(rows for rows, _ in shapes[1:]) < 4 * len(PROMPTS)


def test_only_models_without_such_a_cache_are_run_from_the_start() -> None:
    assert [family for family in MODELS if not serves_cache(POLICIES[family])] == ["mamba"]
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not serves_cache(policy_of(Qwen2ForCausalLM(Qwen2Config(**SHAPE, rope_parameters=rope))))


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("excluded", [(), (2, 5, 30, 31)])
def test_logps_are_those_of_the_distributions(family: str, excluded: tuple[int, ...]) -> None:
    """logps: log softmax(logits / T) without the excluded, by hand; policy_logps: Policy.forward's.

    Three prompts of uneven lengths together, so that rows are padded."""
    sampling = Sampling(temperatures=(1.0, 0.7, 1.6), max_new_tokens=9, batch_size=12)
    found = sampler(family).sample(PROMPTS, 4, sampling, seed=5, stops=[2, 3], excluded=excluded)
    for prompt, samples in zip(PROMPTS, found, strict=True):
        assert [one.temperature for one in samples] == [1.0, 0.7, 1.6, 1.0]
        batch = pack([CompletionGroup(tuple(prompt), tuple(one.tokens for one in samples))])
        with torch.no_grad():
            forward = POLICIES[family](batch).logps
        assert torch.allclose(torch.tensor([x for one in samples for x in one.policy_logps]), forward, atol=1e-5)
        for one in samples:
            assert not set(one.tokens) & set(excluded)
            scaled = logits_of(family, prompt, one.tokens) / one.temperature
            scaled[:, list(excluded)] = -torch.inf
            expected = scaled.log_softmax(-1).gather(1, torch.tensor(one.tokens)[:, None])[:, 0]
            assert torch.allclose(torch.tensor(one.logps), expected, atol=1e-5)
            if one.temperature == 1 and not excluded:
                assert one.logps == one.policy_logps


SMALL = 6


@pytest.fixture(scope="module")
def small() -> Any:
    """A model of 6 tokens, so that its sequences can be counted out."""
    torch.manual_seed(0)
    shape = SHAPE | {"vocab_size": SMALL, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    model = Qwen2ForCausalLM(Qwen2Config(**shape)).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.25)
    return model


def sequence_probabilities(
    model: Any, prompt: list[int], cap: int, temperature: float, excluded: tuple[int, ...]
) -> dict[tuple[int, ...], float]:
    """Of every sequence that can be drawn: token 0 ends one, and so does the cap."""
    out: dict[tuple[int, ...], float] = {}
    front = {(): 1.0}
    for step in range(cap):
        grown: dict[tuple[int, ...], float] = {}
        for prefix, mass in front.items():
            with torch.no_grad():
                logits = model(torch.tensor([prompt + list(prefix)])).logits[0, -1].double() / temperature
            logits[list(excluded)] = -torch.inf
            for token, p in enumerate(logits.softmax(-1).tolist()):
                ended = token == 0 or step + 1 == cap
                (out if ended else grown)[(*prefix, token)] = mass * p
        front = grown
    return {sequence: p for sequence, p in out.items() if p}


def fit(counts: dict[tuple[int, ...], int], probabilities: dict[tuple[int, ...], float]) -> float:
    """The p-value of a chi-square test; cells of fewer than 5 expected are one."""
    n = sum(counts.values())
    cells = [(counts.get(s, 0), p * n) for s, p in probabilities.items() if p * n >= 5]
    cells.append((n - sum(c for c, _ in cells), n - sum(e for _, e in cells)))
    observed, expected = zip(*(cell for cell in cells if cell[1] > 1e-6), strict=True)
    return float(chisquare(observed, expected).pvalue)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("excluded", [(), (3,), (0, 4)])
def test_frequencies_are_the_probabilities(small: Any, temperature: float, excluded: tuple[int, ...]) -> None:
    """6000 samples against the exact probabilities of all sequences of up to 3 tokens; the same samples
    reject another temperature and other exclusions."""
    prompt, n = [1, 4, 2], 6000
    sampling = Sampling(temperatures=(temperature,), max_new_tokens=3, batch_size=n)
    drawn = TransformersSampler(policy_of(small)).sample(
        [prompt], n, sampling, seed=11, stops=[0], excluded=excluded
    )
    counts: dict[tuple[int, ...], int] = {}
    for one in drawn[0]:
        counts[one.tokens] = counts.get(one.tokens, 0) + 1
    right = sequence_probabilities(small, prompt, 3, temperature, excluded)
    assert sum(right.values()) == pytest.approx(1)
    assert counts.keys() <= right.keys()
    assert fit(counts, right) > 1e-3
    for wrong in (
        sequence_probabilities(small, prompt, 3, 1.7 - temperature, excluded),
        sequence_probabilities(small, prompt, 3, temperature, (5,)),
    ):
        assert not counts.keys() <= wrong.keys() or fit(counts, wrong) < 1e-6


def test_samples_of_a_prompt_and_of_steps_are_independent(small: Any) -> None:
    """Pairs of neighbouring samples' first tokens, and first tokens with second ones from the same prefix."""
    sampling = Sampling(max_new_tokens=1, batch_size=8000)
    drawn = TransformersSampler(policy_of(small)).sample([[1, 4, 2]], 8000, sampling, seed=3, stops=[])
    first = [one.tokens[0] for one in drawn[0]]
    single = sequence_probabilities(small, [1, 4, 2], 1, 1.0, ())
    pairs = {(a, b): single[(a,)] * single[(b,)] for a, b in itertools.product(range(SMALL), repeat=2)}
    counts = dict.fromkeys(pairs, 0)
    for a, b in zip(first[::2], first[1::2], strict=True):
        counts[(a, b)] += 1
    assert fit(counts, pairs) > 1e-3


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-9, 0.1, 1.0, 3.0]), min_size=1, max_size=9).filter(any),
    uniform=st.floats(0, 1 - 2**-53) | st.sampled_from([0.0, 0.5, 1 - 2**-53]),
)
def test_inverse_cdf(weights: list[float], uniform: float) -> None:
    """The first token whose cumulative mass exceeds u of the total, in exact arithmetic."""
    p = torch.tensor(weights) / sum(weights)
    token = int(invert_cdf(p[None], torch.tensor([uniform], dtype=torch.float64))[0])
    masses = [int(Fraction(x) * int(UNIT)) for x in p.tolist()]
    mark = Fraction(uniform) * sum(masses)
    assert weights[token] > 0
    # Half a unit for the rounding of u · total.
    assert sum(masses[:token]) <= mark + 1
    assert mark - 1 < sum(masses[: token + 1])


@pytest.mark.parametrize("entries", [61, 96, 1024])
def test_inverse_cdf_by_blocks_is_the_same(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, three and four blocks, with blocks of probability 0 at both ends and between."""
    generator = torch.Generator().manual_seed(0)
    p = (8 * torch.randn(400, entries, generator=generator)).softmax(-1)
    for first, lo in enumerate((0, entries // 2, entries - 40)):
        p[first::7, lo : lo + 40] = 0.0
    p = p / p.sum(-1, keepdim=True)
    uniform = torch.rand(400, generator=generator, dtype=torch.float64)
    uniform[:4] = torch.tensor([0.0, 1 - 2**-53, 0.0, 1 - 2**-53], dtype=torch.float64)
    expected = invert_cdf(p, uniform)
    monkeypatch.setattr("trimtab.rollout.drawing.MANY", 0)
    assert torch.equal(invert_cdf(p, uniform), expected)
    assert (p.gather(1, expected[:, None]) > 0).all()


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    sampling = Sampling(max_new_tokens=12, temperatures=(1.0, 0.7))
    first, again, other = (sampler().sample(PROMPTS, 4, sampling, seed=s, stops=STOPS) for s in (1, 1, 2))
    assert first == again
    assert tokens(first) != tokens(other)
    assert len({one.tokens for one in first[0]}) > 1, "a prompt's samples have numbers of their own"
    twins = sampler().sample([[5, 6], [5, 6]], 1, sampling, seed=1, stops=STOPS)
    assert twins[0][0].tokens != twins[1][0].tokens


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma3", "gpt2", "mamba"])
def test_batches_and_other_prompts_change_nothing_that_is_drawn(family: str) -> None:
    """Also where the other prompts' lengths put a prompt into other batches, beside other rows."""

    def run(prompts: list[list[int]], batch_size: int) -> list[list[Sample]]:
        sampling = Sampling(max_new_tokens=12, temperatures=(1.0, 0.7), batch_size=batch_size)
        return sampler(family).sample(prompts, 3, sampling, seed=4, stops=STOPS)

    expected = run(PROMPTS, 64)
    assert {one.finish for one in flat(expected)} == {"stop", "cap"}
    for batch_size in (1, 2, 4, 7):
        found = run(PROMPTS, batch_size)
        assert tokens(found) == tokens(expected)
        for a, b in zip(flat(found), flat(expected), strict=True):
            assert a.logps == pytest.approx(b.logps, abs=1e-5)
    others = [[40] * 20, PROMPTS[1], [41], PROMPTS[3], [42] * 7]
    for place in (1, 3):
        assert tokens(run(others, 4))[place] == tokens(expected)[place]


ONE_TOKEN: dict[str, dict[str, Any]] = {"llama": {}, "qwen2": {}, "qwen3": {}, "mistral": {"sliding_window": None}}
"""What one_token.py writes out."""


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("family", ONE_TOKEN)
def test_the_pass_over_one_token_is_transformers(
    family: str, scaled: bool, large: bool, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits after each of three tokens, of rows with padding and of rows without, with biases that are not 0;
    with weights that are laid out anew, and with rows of unlike lengths apart. Rows leave before the third."""
    monkeypatch.setattr("trimtab.models.products.LARGE", 1 if large else 2**17)
    monkeypatch.setattr("trimtab.rollout.one_token_rows.PADDING", 1 if apart else 2**16)
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
    model = make(family, **ONE_TOKEN[family], **({"rope_parameters": rope} if scaled else {}))
    for name, weight in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(weight, mean=1.0, std=0.3)
    policy = policy_of(model)
    for prompts in (PROMPTS, PROMPTS[:1]):
        with torch.no_grad():
            computed = Prompts(policy, prompts)
            rows = computed.rows(torch.arange(len(prompts)))
            assert isinstance(rows, OneTokenRows)
            assert len(rows.stores) == (5 if apart and len(prompts) > 1 else 1)
            left = list(prompts)
            for step in range(1, 4):
                if step == 3 and len(left) > 1:
                    rows.keep(torch.tensor([0, 3, 4]))
                    left = [left[0], *left[3:]]
                logits = rows.advance(torch.full((len(left),), 30 + step))
                for prompt, found in zip(left, logits, strict=True):
                    ids = torch.tensor([[*prompt, *range(31, 31 + step)]])
                    assert torch.allclose(found, model(input_ids=ids).logits[0, -1], atol=1e-5)


def test_other_layers_and_hooked_ones_run_as_transformers_has_them() -> None:
    assert [f for f in MODELS if serves(POLICIES[f].model)] == ["qwen2", "qwen3", "llama"]
    hook = MODELS["llama"].model.layers[0].register_forward_hook(lambda *_: None)
    assert not serves(MODELS["llama"])
    hook.remove()
    assert not serves(copy.deepcopy(MODELS["llama"]).bfloat16())


class Watched:
    """The shapes [rows, columns] of the ids that a model's embedding sees, pass by pass."""

    def __init__(self, policy: Policy) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.hook = policy.model.get_input_embeddings().register_forward_pre_hook(self.see)

    def see(self, module: Any, inputs: tuple[Tensor, ...]) -> None:
        self.shapes.append(tuple(inputs[0].shape))

    def __enter__(self) -> list[tuple[int, ...]]:
        return self.shapes

    def __exit__(self, *_: Any) -> None:
        self.hook.remove()


def test_prompts_are_computed_once_and_finished_samples_leave() -> None:
    """One pass of the prompts, then one column a pass, of at most 4/3 as many rows as have not finished."""
    stops = list(range(0, VOCABULARY, 9))
    with Watched(POLICIES["qwen2"]) as shapes:
        found = sampler().sample(
            PROMPTS, 16, Sampling(max_new_tokens=40, batch_size=80), seed=0, stops=stops, excluded=(2,)
        )
    assert shapes[0] == (len(PROMPTS), max(map(len, PROMPTS)))
    lengths = [len(one.tokens) for one in flat(found)]
    assert len(shapes) == max(lengths), "the first tokens are drawn from the prompts' own pass"
    for step, (rows, columns) in enumerate(shapes[1:], start=1):
        active = sum(length > step for length in lengths)
        assert columns == 1
        assert active <= rows <= active / 0.75
    assert min(rows for rows, _ in shapes[1:]) < 80


def test_more_samples_than_a_batch_share_one_pass_of_the_prompt() -> None:
    with Watched(POLICIES["qwen2"]) as shapes:
        sampler().sample([[5, 6, 7]], 10, Sampling(max_new_tokens=3, batch_size=4), seed=0, stops=[])
    assert shapes == [(1, 3), (4, 1), (4, 1), (4, 1), (4, 1), (2, 1), (2, 1)]


@pytest.mark.parametrize(("seed", "first"), [(3, "short"), (0, "long")])
def test_padding_that_no_row_needs_is_trimmed(seed: int, first: str) -> None:
    """Whichever row ends first, the other goes on without padding, so without a mask."""
    masked: list[bool] = []
    hook = POLICIES["qwen2"].model.model.register_forward_pre_hook(
        lambda _, __, kwargs: masked.append(kwargs.get("attention_mask") is not None), with_kwargs=True
    )
    samples = flat(sampler().sample([[4], PROMPTS[1]], 1, Sampling(max_new_tokens=30), seed=seed, stops=STOPS))
    hook.remove()
    short, long = (len(one.tokens) for one in samples)
    assert (short < long) == (first == "short")
    assert masked[1:] == [step < min(short, long) for step in range(1, max(short, long))]


def test_buffers_grow_as_often_as_they_must() -> None:
    """100 tokens after 9: two times the room that the buffers start with."""
    found = sampler().sample(PROMPTS, 1, Sampling(temperatures=(0.0,), max_new_tokens=100), seed=0, stops=[])
    for prompt, (one,) in zip(PROMPTS, found, strict=True):
        assert list(one.tokens) == generated("qwen2", prompt, max_new_tokens=100)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("survival", [0.5, 0.05, 1e-3])
def test_a_sample_ends_where_its_survival_drops(temperature: float, survival: float) -> None:
    """The product of (1 - excluded mass), at the sample's temperature (1 where it is 0), taken by hand."""
    excluded, cap = (2, 3, *range(10, 34)), 20  # 26 of 61 tokens
    sampling = Sampling(temperatures=(temperature,), max_new_tokens=cap)
    found = sampler("llama").sample(
        PROMPTS, 5, sampling, seed=2, stops=(2, 3), excluded=excluded, survival=survival
    )
    for prompt, samples in zip(PROMPTS, found, strict=True):
        for one in samples:
            p = (logits_of("llama", prompt, one.tokens) / (temperature or 1.0)).softmax(-1)
            left = (1 - p[:, list(excluded)].sum(-1)).cumprod(0).tolist()
            assert all(x >= survival for x in left[:-1])
            assert (one.finish == "survival") == (left[-1] < survival)
            assert one.finish == "survival" or (one.finish == "cap" and len(one.tokens) == cap)
    assert "survival" in {one.finish for one in flat(found)}
    unbounded = sampler("llama").sample(PROMPTS, 5, sampling, seed=2, stops=(2, 3), excluded=excluded)
    assert {one.finish for one in flat(unbounded)} == {"cap"}
    for a, b in zip(flat(found), flat(unbounded), strict=True):
        assert a.tokens == b.tokens[: len(a.tokens)]


@given(stops=st.lists(st.integers(0, VOCABULARY - 1), max_size=30), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_a_sample_ends_with_its_first_stop_token_or_at_the_cap(stops: list[int], seed: int) -> None:
    for one in flat(sampler().sample(PROMPTS, 3, Sampling(max_new_tokens=6), seed=seed, stops=stops)):
        assert not set(one.tokens[:-1]) & set(stops)
        assert one.finish == ("stop" if one.tokens[-1] in stops else "cap")
        assert one.finish == "stop" or len(one.tokens) == 6
        assert len(one.logps) == len(one.policy_logps) == len(one.tokens)


def test_the_random_state_and_the_modes_are_left_alone() -> None:
    policy = policy_of(MODELS["qwen2"]).train()
    policy.model.lm_head.eval()
    modes = [module.training for module in policy.modules()]
    during: list[bool] = []
    hook = policy.model.model.register_forward_pre_hook(lambda module, _: during.append(module.training))
    before = torch.get_rng_state()
    TransformersSampler(policy).sample(PROMPTS, 2, Sampling(max_new_tokens=3), seed=0, stops=[])
    hook.remove()
    assert torch.equal(torch.get_rng_state(), before)
    assert during
    assert not any(during)
    assert [module.training for module in policy.modules()] == modes


@pytest.fixture
def bf16() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2"])
def test_under_autocast_the_weights_can_be_trained_afterwards(family: str, bf16: None) -> None:
    """autocast keeps the weights that it has cast: in older torch, those cast without gradients had none in
    a step."""
    policy = policy_of(MODELS[family]).train()
    found = TransformersSampler(policy).sample(PROMPTS, 2, Sampling(max_new_tokens=6), seed=0, stops=[])
    for one in flat(found):
        assert all(x <= 0 for x in one.logps)
    groups = [
        CompletionGroup(tuple(p), tuple(one.tokens for one in s)) for p, s in zip(PROMPTS, found, strict=True)
    ]
    logps = policy(pack(groups)).logps
    # bf16 keeps 8 bits: log-probabilities of a few nats agree to some hundredths.
    sampled = torch.tensor([x for one in flat(found) for x in one.policy_logps])
    assert (logps.detach() - sampled).abs().mean() < 0.1
    logps.sum().backward()
    missing = [name for name, weight in policy.named_parameters() if weight.grad is None]
    assert not missing


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_under_autocast_keys_are_kept_as_attention_reads_them(
    family: str, bf16: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in bf16, not cast for every token; what is drawn is the same to the last bit."""
    kept: set[torch.dtype] = set()
    for owner, name in ((KeysValues, "grow"), (GrowingLayer, "update")):
        plain = getattr(owner, name)

        def seen(self: Any, *args: Any, plain: Any = plain) -> Any:
            kept.update(
                x.dtype for x in (self.layers if isinstance(self, KeysValues) else (self.keys, self.values))
            )
            return plain(self, *args)

        monkeypatch.setattr(owner, name, seen)

    def drawn() -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
        found = TransformersSampler(policy_of(MODELS[family])).sample(
            PROMPTS, 2, Sampling(max_new_tokens=6), seed=0, stops=[]
        )
        return [(one.tokens, one.policy_logps) for one in flat(found)]

    in_bf16 = drawn()
    assert kept == {torch.bfloat16}
    kept.clear()
    monkeypatch.setattr(rows_module, "_attended_in", lambda layer: torch.float32)
    assert drawn() == in_bf16
    assert torch.float32 in kept


def test_prompts_that_cannot_be_sampled() -> None:
    sampling = Sampling(max_new_tokens=100)
    with pytest.raises(TrimtabError, match=r"prompt 2 has 29 tokens; with max_new_tokens=100 .* 128 positions"):
        sampler().sample([[5], [6] * 29], 1, sampling, seed=0, stops=[])
    with pytest.raises(TrimtabError, match="prompt 1 has 29 tokens"):
        sampler().beam([[6] * 29], num_beams=2, length_penalty=1.0, max_new_tokens=100, stops=[2])
    fits = sampler("gpt2").sample([[6] * 28], 1, Sampling(max_new_tokens=100), seed=0, stops=[])
    assert len(fits[0][0].tokens) == 100, "the last position is used"
    with pytest.raises(TrimtabError, match="prompt 2 has no tokens"):
        sampler().sample([[5], []], 1, sampling, seed=0, stops=[])
    with pytest.raises(ValueError, match="nothing to draw"):
        sampler().sample([[5]], 1, sampling, seed=0, stops=[], excluded=range(VOCABULARY))
    assert sampler().sample([], 2, sampling, seed=0, stops=[]) == []


def test_a_broken_policy_is_named() -> None:
    policy = policy_of(MODELS["qwen2"])
    policy.model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(TrimtabError, match="logits are NaN"):
        TransformersSampler(policy).sample([[5]], 1, Sampling(max_new_tokens=9), seed=0, stops=[])


@pytest.mark.parametrize("temperatures", [(), (-1.0,), (float("nan"),), (float("inf"),)])
def test_temperatures_that_are_none(temperatures: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        Sampling(temperatures=temperatures)
