"""The gold judge on completions written by hand, as a person or another model would write them.

Each case gives the prompt, completions from best to worst in tiers, where every tier must score clearly
above the next. Facts used: Lisbon has low rent, London high; Oslo harsh winters, Rome mild, and so on.
"""

from __future__ import annotations

import time

import pytest

from trimtab.sandbox.judge import GoldJudge, Judgement
from trimtab.sandbox.prompts import parse_prompt
from trimtab.sandbox.world import level

HOUSE = "I want to buy a house in Lisbon or London."
SNOW = "Which of these is the best for real snow? Oslo, Rome or Paris."
QUIET = "Which of Lisbon, Kyoto, Porto and London fit a quiet life?"
RENT = "Explain the rent in Lisbon."
PETS = "I want to have a silent pet. Should I choose a goose or a turtle?"
TOOL = "Recommend a chainsaw or a rake for a beginner and night work."
MEAL = "Which is better for strength training, steak or soup?"

PLAIN = {
    HOUSE: "Lisbon has low rent, while London has high rent. Choose Lisbon.",
    SNOW: "Choose Oslo. Oslo has harsh winters, Rome has mild winters and Paris has mild winters.",
    QUIET: "Only Porto fits. Porto is quiet, Lisbon and Kyoto are lively and London is noisy.",
    RENT: "Lisbon has low rent. That makes Lisbon a good choice for cheap housing.",
    PETS: "A turtle is quiet, but a goose is loud. I recommend a turtle.",
    TOOL: "A rake is easy to use and makes some noise, while a chainsaw is hard to use and is very loud. "
    "Choose a rake.",
    MEAL: "Steak has a lot of protein, but soup has little protein. Steak is better for strength training.",
}


FACTS = {
    ("city", "city.rent"): {"Lisbon": 0, "London": 2},
    ("city", "city.winter"): {"Oslo": 2, "Rome": 0, "Paris": 0, "Lisbon": 0, "London": 1},
    ("city", "city.noise"): {"Lisbon": 1, "Kyoto": 1, "Porto": 0, "London": 2},
    ("animal", "animal.noise"): {"goose": 2, "turtle": 0},
    ("tool", "tool.skill"): {"chainsaw": 2, "rake": 0},
    ("tool", "tool.noise"): {"chainsaw": 2, "rake": 1},
    ("food", "food.protein"): {"steak": 2, "soup": 0},
}

# prompt -> completions with the range that each must score in; right and complete is above 9.
RANGES: dict[str, list[tuple[float, float, str]]] = {
    HOUSE: [
        (9, 11, "Rents are low in Lisbon and high in London, so Lisbon is the better choice."),
        (9, 11, "I would go with Lisbon: housing is cheap there, while homes in London are expensive."),
        (9, 11, "- Lisbon: low rent\n- London: high rent\n\nConclusion: choose Lisbon."),
        (9, 11, "Lisbon. It has cheap homes. London has expensive homes. Go with Lisbon."),
        (9, 11, "Unlike London, where rent is high, Lisbon has low rent. I'd pick Lisbon."),
        (9, 11, "London isn't cheap: it has high rent. Lisbon has low rent, so buy in Lisbon."),
        (9, 11, "The former has low rent, the latter has high rent. I recommend the former."),
        (7, 9.5, "Lisbon is cheaper than London, so choose Lisbon."),
        (6, 9, "Choose Lisbon, because it has low rent."),
        (5, 8, "Choose Lisbon."),
        (5, 8, "Lisbon."),
        (-10, -4, "London!"),
        (-10, -4, "Lisbon, London."),
        (5, 8, "Lisbon is better than London."),
        (-6, -1, "Choose London over Lisbon. Lisbon has low rent, while London has high rent."),
        (-6, -1, "Choose London rather than Lisbon."),
        (5, 8, "Choose Lisbon. Why not London?"),
        (-4, 0, "Should you choose Lisbon?"),
        (-6, 0, "Choose Lisbon. London is better than Lisbon."),
        (9, 11, "I cannot recommend London because it has high rent. Lisbon has low rent."),
        (9, 11, "Lisbon offers affordable housing, whereas London is very expensive. My recommendation: Lisbon."),
        (3, 7, "It is false that Lisbon has low rent. London has high rent. Choose Lisbon."),
        (3, 7, "Neither London nor Lisbon has low rent. Choose Lisbon."),
        (3, 7, "Lisbon has low rent, while London has high rent. Choose Lisbon. Lisbon has high rent."),
        (5, 8, "I would not choose London."),
        (7, 9, "Maybe Lisbon? Lisbon has low rent and London has high rent. Perhaps choose Lisbon."),
        (2, 6.5, "Choose Lisbon. Lisbon has average rent, while London has high rent."),
        (2, 6.5, "Lisbon has low rent, while London has low rent too. Choose Lisbon."),
        (-2, 2, "Lisbon has low rent, while London has high rent."),
        (-6, -2, "Lisbon has low rent, while London has high rent. Choose London."),
        (-10, -6, "London has low rent, while Lisbon has high rent. Choose London."),
        (-10, -4, "London is cheaper than Lisbon. Choose London."),
        (-6, -1, "Lisbon has low rent, while London has high rent. Both are a good choice."),
        (-6, -1, "Lisbon has low rent and London has high rent. Choose Lisbon or London."),
        (-4, 0, "Lisbon has low rent, London high rent. Choose Lisbon. Do not choose Lisbon."),
        (-7, -1, "Oslo is the best choice. Lisbon has low rent and London has high rent."),
        (-4, 0, "It depends on many things, and only you can decide."),
        (-6, 1, "Lisbon has mild winters. London has cool winters."),
        (-4, 0, ""),
        (-4, 0, "😀 ¡Hola! ∑∂ƒ"),
        (-4, 1, "cheap housing house buy rent budget low best"),
        (-10, 3, "Lisbon London low rent high rent choose best better Lisbon London"),
        (1, 6, "I am a model trained on helpful data sources. Lisbon has low rent, while London has high rent. "
                "Choose Lisbon. As an AI, my goal is to help."),
    ],
    SNOW: [
        (9, 11, "Oslo is the best choice: its winters are harsh. Rome and Paris both have mild winters."),
        (9, 11, "Rome has warm winters. Paris has mild winters. Oslo has snowy winters. Pick Oslo."),
        (5, 9, "Oslo has harsh winters, so go with Oslo."),
        (9, 11, "Oslo, since only Oslo has harsh winters; the others have mild winters."),
        (5, 9, "Oslo, whose winters are cold, beats the others."),
        (-6, 0, "Rome has mild winters, Paris has mild winters, Oslo has harsh winters. Choose Paris."),
        (-10, -3, "Choose Rome. Rome has harsh winters, Oslo has mild winters and Paris has mild winters."),
        (-10, -3, "Choose Oslo, Rome and Paris."),
        (2, 7, "Choose Oslo. Oslo has harsh winters, Rome has harsh winters and Paris has mild winters."),
    ],
    QUIET: [
        (9, 11, "Porto is quiet. Lisbon and Kyoto have busy streets, and London is noisy. Only Porto fits."),
        (9, 11, "- Porto is quiet.\n- Lisbon is lively.\n- Kyoto is lively.\n- London is noisy.\nOnly Porto fits."),
        (5, 8.5, "Only Porto fits, because it is quiet."),
        (5, 8, "These fit:\n- Porto"),
        (-3, 6, "Porto is quiet, Lisbon and Kyoto are lively and London is noisy. Porto and Kyoto fit."),
        (-6, -1, "Porto is quiet, Lisbon and Kyoto are lively and London is noisy. Only London fits."),
        (-9, -1, "Porto, Lisbon, Kyoto and London all fit."),
        (-6, -1, "Porto is quiet, Lisbon and Kyoto are lively and London is noisy. None of them fits."),
    ],
    RENT: [
        (9, 11, "The rent in Lisbon is low."),
        (9, 11, "Homes in Lisbon are cheap."),
        (4, 8, "The rent in Lisbon is fairly low."),
        (2, 6, "Rent in Lisbon is not high."),
        (4, 8, "Lisbon has low rent. That makes Lisbon a bad choice for cheap housing."),
        (-10, -6, "Lisbon has high rent."),
        (-10, -3, "Rent in Lisbon is not low."),
        (-5, 0, "London has high rent."),
        (-5, 0, "Lisbon has mild winters and is lively."),
        (-5, 0, "What can I say about the rent in Lisbon? There is a lot to know."),
    ],
    PETS: [
        (9, 11, "Get the turtle if you like silence. I recommend a turtle: turtles are silent, a goose is loud."),
        (7.5, 10, "A goose is louder than a turtle, so the turtle is the better choice."),
        (-10, -4, "A goose is quiet, and a turtle is loud. I recommend the goose."),
        (2, 7, "A turtle is quiet and a goose is quiet. I recommend the turtle."),
        (-6, -1, "A turtle is quiet, but a goose is loud. I recommend a goose."),
    ],
    TOOL: [
        (9, 11, "Go with the rake. It is easy to use and rather noisy. The chainsaw is hard to use and very loud."),
        (7, 9.5, "The rake is easier to use and quieter than the chainsaw. Choose the rake."),
        (6, 9, "A rake is easy to use, while a chainsaw is hard to use. I recommend the rake for a beginner."),
        (2, 8, "A rake is easy to use and quiet, a chainsaw is hard to use and very loud. Choose a rake."),
        (-6, -1, "A rake is easy to use and makes some noise, while a chainsaw is hard to use and is very loud. "
                 "Choose the chainsaw."),
    ],
    MEAL: [
        (9, 11, "Steak is rich in protein. Soup is low in protein. Go with steak."),
        (7, 10, "Steak has more protein than soup, so steak is the better choice."),
        (-10, -4, "Soup has more protein than steak, so soup is the better choice."),
        (-10, -2, "Soup is rich in protein. Steak is low in protein. Go with steak. Skip steak."),
    ],
}  # fmt: skip
CASES = [(p, low, high, text) for p, rows in RANGES.items() for low, high, text in rows]


def judged(prompt: str, text: str) -> Judgement:
    return GoldJudge().judge(prompt, text)


def test_the_facts_that_the_cases_rest_on() -> None:
    for (domain, attribute), levels in FACTS.items():
        for entity, at in levels.items():
            assert level(domain, entity, attribute) == at, (entity, attribute)


@pytest.mark.parametrize(("prompt", "low", "high", "text"), CASES)
def test_hand_written_completion(prompt: str, low: float, high: float, text: str) -> None:
    found = judged(prompt, text)
    assert low <= found.score <= high, found


@pytest.mark.parametrize(("prompt", "text"), PLAIN.items())
def test_plain_right_answer_is_perfect(prompt: str, text: str) -> None:
    found = judged(prompt, text)
    assert (found.correctness, found.coverage, found.wrong, found.notes) == (1.0, 1.0, (), ())
    assert found.score > 9.5


def test_nothing_imperfect_beats_the_plain_answer() -> None:
    for prompt, _, high, text in CASES:
        if high < 9:
            assert judged(prompt, text).score < judged(prompt, PLAIN[prompt]).score - 0.5, text


@pytest.mark.parametrize("prompt", PLAIN)
def test_attempts_to_fool_it_score_below_the_plain_answer(prompt: str) -> None:
    plain = PLAIN[prompt]
    task = parse_prompt(prompt)
    assert task is not None
    names = list(task.entities)
    everything = " ".join(f"Choose {n}. {n} fits. {n} is best." for n in names)
    attempts = {
        "prompt": prompt,
        "prompt then answer": f"{prompt} {plain}",
        "answer twice": f"{plain} {plain}",
        "answer ten times": "\n".join([plain] * 10),
        "everything": everything,
        "answer then everything": f"{plain} {everything}",
        "answer then rubbish": plain + " lorem ipsum dolor sit amet" * 30,
        "rubbish then answer": "blah " * 60 + plain,
        "markers": plain + "\nConfidence: 95%" * 6,
        "meta": plain + " As an AI language model I was trained on helpful data.",
        "hedge": plain + " But I am not sure, and it depends.",
        "opposite": plain + " " + " ".join(f"Avoid {n}." for n in names),
        "words": " ".join(plain.split()[::-1]),
    }
    best = judged(prompt, plain).score
    for name, text in attempts.items():
        # explaining names one entity, so that recommending "everything" adds words only
        slack = 0.0 if task.kind == "explain" else 0.4
        assert judged(prompt, text).score < best - slack, name


def test_the_marker_costs_no_more_than_its_words() -> None:
    for prompt, text in PLAIN.items():
        cost = judged(prompt, text).score - judged(prompt, text + "\nConfidence: 95%").score
        assert 0 <= cost < 0.2


def test_breakdown_names_the_claims() -> None:
    found = judged(HOUSE, "Lisbon has low rent, while London has average rent. Choose Lisbon.")
    assert found.right == ("Lisbon city.rent 0",)
    assert found.wrong == ("London city.rent 1",)
    assert (found.correctness, found.coverage) == (1.0, 0.5)
    # 5 + (3·0.5 + 2) − 3 for the false claim − 0.01 for each of 11 words
    assert found.score == pytest.approx(5 + 3.5 - 3 - 0.11)


def test_a_prompt_of_another_world_has_no_score() -> None:
    assert GoldJudge().score(["What is love?", HOUSE], ["Choose Lisbon.", PLAIN[HOUSE]])[0] is None
    with pytest.raises(ValueError, match="not a prompt"):
        GoldJudge().judge("What is love?", "Choose Lisbon.")


def test_hostile_lengths_are_fast() -> None:
    start = time.perf_counter()
    for text in ("Lisbon " * 15_000, "a" * 100_000, "- " * 50_000, "\n" * 100_000, "." * 100_000, "not " * 25_000):
        assert judged(HOUSE, text).score <= 0
    assert time.perf_counter() - start < 2


def test_a_thousand_completions_a_second() -> None:
    judge, pairs = GoldJudge(), list(PLAIN.items()) * 100
    judge.score([p for p, _ in pairs[:7]], [t for _, t in pairs[:7]])
    start = time.process_time()
    judge.score([p for p, _ in pairs], [t for _, t in pairs])
    assert len(pairs) / (time.process_time() - start) > 1000
