"""An answer in which each kind of instruction holds, and one in which it does not, by hand."""

from __future__ import annotations

from typing import Any

EXAMPLES: dict[str, tuple[dict[str, Any], str, str]] = {
    "keywords:existence": ({"keywords": ["cat", "dog"]}, "A Cat and a dog.", "A cat alone."),
    "keywords:frequency": (
        {"keyword": "war", "frequency": 2, "relation": "at least"}, "War, then war again.", "One war only."
    ),
    "keywords:forbidden_words": ({"forbidden_words": ["rain"]}, "A rainy day.", "More Rain today."),
    "keywords:letter_frequency": (
        {"letter": "z", "let_frequency": 2, "let_relation": "less than"}, "One zoo.", "A jazzy zoo."
    ),
    "language:response_language": (
        {"language": "de"},
        "Das Wetter ist heute sehr schön, und wir gehen zusammen in den Park.",
        "The weather is lovely today, and we walk to the park together.",
    ),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"},
        "Dr. Smith met Mrs. Jones at 5 p.m. in Washington. He left.",
        "One. Two is here. Three is here.",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "One.\n***\nTwo.", "One.\n\nTwo."),
    "length_constraints:number_words": (
        {"num_words": 4, "relation": "at least"}, "well-known old facts", "Three old facts"
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"}, "First.\n\nthen, more.", "Then.\n\nFirst."
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] of [town]", "[name] of town"),
    "detectable_content:postscript": (
        {"postscript_marker": "P.P.S"}, "Yours.\nP.P.S. Call me.", "Yours.\nP.S. Call."
    ),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* one\n- two", "* one\n* two\n* three"),
    "detectable_format:constrained_response": ({}, "My answer is maybe.", "Maybe."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*one* and **two**", "*one* and **"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "Day", "num_sections": 2}, "Day 1\nWalk.\nDay 2\nRest.", "Day 1\nWalk, then rest."
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": [1, 2]}\n```', "a: [1, 2]"),
    "detectable_format:title": ({}, "<<A poem>>\nRoses.", "<< >>\nRoses."),
    "combination:two_responses": ({}, "Yes.\n******\nNo.", "Yes.\n******\nYes."),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Why is it so?"}, "why is it so? Because.", "Because."),
    "startend:end_checker": (
        {"end_phrase": "Any other questions?"}, "Yes. any other questions?", "Any other questions? No."
    ),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"}, "NASA and ESA.", "NASA and Esa."
    ),
    "change_case:english_capital": ({}, "THE WEATHER IS LOVELY TODAY.", "THE WEATHER IS LOVELY today."),
    "change_case:english_lowercase": ({}, "the weather is lovely today.", "The weather is lovely today."),
    "punctuation:no_comma": ({}, "One; two.", "One, two."),
    "startend:quotation": ({}, ' "All of it." ', '"All" of it.'),
}  # fmt: skip
"""Arguments, an answer that holds, and one that does not, of each of the 25 kinds."""
