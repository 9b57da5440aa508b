"""A row of every layout, and what it is read as."""

from __future__ import annotations

from typing import Any

from trimtab.data.records import Message

SYSTEM, USER = Message("system", "Be brief."), Message("user", "Sky?")


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def said(who: str, value: str) -> dict[str, str]:
    """ShareGPT's turn."""
    return {"from": who, "value": value}


SKY, BLUE, GREEN = turn("user", "Sky?"), turn("assistant", "Blue."), turn("assistant", "Green.")

LAYOUTS: dict[str, tuple[dict[str, Any], Any, tuple[str, ...], Any]] = {
    "preference": ({"prompt": "Sky?", "chosen": "Blue.", "rejected": "Green."}, "Sky?", ("Blue.", "Green."), None),
    "preference, conversational": (
        {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
        (USER,),
        ("Blue.", "Green."),
        None,
    ),
    "implicit prompt": ({"chosen": [SKY, BLUE], "rejected": [SKY, GREEN]}, (USER,), ("Blue.", "Green."), None),
    "implicit prompt of several turns": (
        {
            "chosen": [turn("system", "Be brief."), SKY, BLUE, SKY, BLUE],
            "rejected": [turn("system", "Be brief."), SKY, BLUE, SKY, GREEN],
        },
        (SYSTEM, USER, Message("assistant", "Blue."), USER),
        ("Blue.", "Green."),
        None,
    ),
    "prompt repeated in both": (
        {"prompt": [SKY], "chosen": [SKY, BLUE], "rejected": [SKY, GREEN]},
        (USER,),
        ("Blue.", "Green."),
        None,
    ),
    "prompt-completion": ({"prompt": "Sky?", "completion": "Blue."}, "Sky?", ("Blue.",), None),
    "prompt-completion, conversational": ({"prompt": [SKY], "completion": [BLUE]}, (USER,), ("Blue.",), None),
    "text prompt, conversational completion": ({"prompt": "Sky?", "completion": [BLUE]}, "Sky?", ("Blue.",), None),
    "text prompt, conversations of the answer alone": (
        {"prompt": "Sky?", "chosen": [BLUE], "rejected": [GREEN]},
        "Sky?",
        ("Blue.", "Green."),
        None,
    ),
    # HuggingFaceH4/ultrafeedback_binarized: the prompt as text, and again as the first turn of both.
    "H4's UltraFeedback": (
        {
            "prompt": "Sky?",
            "prompt_id": "f0e3",
            "chosen": [SKY, BLUE],
            "rejected": [SKY, GREEN],
            "messages": [SKY, BLUE],
            "score_chosen": 8.5,
            "score_rejected": 3,
        },
        (USER,),
        ("Blue.", "Green."),
        (8.5, 3.0),
    ),
    # openbmb/UltraFeedback: best first, whatever their order in the row.
    "openbmb's UltraFeedback": (
        {
            "instruction": "Sky?",
            "completions": [
                {"response": "Green.", "overall_score": 2},
                {"response": "Blue.", "overall_score": 9.0},
                {"response": "Bluish.", "overall_score": None, "fine-grained_score": 4.5},
            ],
        },
        "Sky?",
        ("Blue.", "Bluish.", "Green."),
        (9.0, 4.5, 2.0),
    ),
    "scores in metadata": (
        {
            "prompt": "Sky?",
            "chosen": "Blue.",
            "rejected": "Green.",
            "metadata": {"score_chosen": 7, "score_rejected": 7},
        },
        "Sky?",
        ("Blue.", "Green."),
        (7.0, 7.0),
    ),
    # Anthropic's HH: the prompt is all before the last "Assistant:", in turns.
    "implicit prompt of text": (
        {
            "chosen": "\n\nHuman: Sky?\n\nAssistant: Blue.\n\nHuman: Sea? \n\nAssistant: Blue too.",
            "rejected": "\n\nHuman: Sky?\n\nAssistant: Blue.\n\nHuman: Sea? \n\nAssistant: Green.",
        },
        (USER, Message("assistant", "Blue."), Message("user", "Sea?")),
        ("Blue too.", "Green."),
        None,
    ),
    "prompt of Human and Assistant": (
        {
            "prompt": "Human: Sky?\n\nAssistant: Blue.\n\nHuman: Sky?\n\nAssistant:",
            "chosen": "Blue.",
            "rejected": "No.",
        },
        (USER, Message("assistant", "Blue."), USER),
        ("Blue.", "No."),
        None,
    ),
    # LLaMA-Factory's.
    "ShareGPT pairs": (
        {
            "conversations": [said("system", "Be brief."), said("human", "Sky?")],
            "chosen": said("gpt", "Blue."),
            "rejected": said("gpt", "Green."),
        },
        (SYSTEM, USER),
        ("Blue.", "Green."),
        None,
    ),
    "ShareGPT with tools": (
        {
            "conversations": [
                said("human", "Sky?"),
                said("function_call", "look()"),
                said("observation", "blue"),
                said("gpt", "Blue."),
            ]
        },
        (USER, Message("assistant", "look()"), Message("tool", "blue")),
        ("Blue.",),
        None,
    ),
    "messages": (
        {"messages": [turn("system", "Be brief."), SKY, BLUE, SKY, GREEN]},
        (SYSTEM, USER, Message("assistant", "Blue."), USER),
        ("Green.",),
        None,
    ),
    "Alpaca": ({"instruction": "Sky?", "input": "", "output": "Blue."}, "Sky?", ("Blue.",), None),
    "Alpaca with an input": (
        {"instruction": "Which colour?", "input": "The sky.", "output": "Blue."},
        "Which colour?\nThe sky.",
        ("Blue.",),
        None,
    ),
    "Alpaca with history and system": (
        {"instruction": "Sky?", "output": "Green.", "history": [["Sky?", "Blue."]], "system": "Be brief."},
        (SYSTEM, USER, Message("assistant", "Blue."), USER),
        ("Green.",),
        None,
    ),
    "Alpaca pairs": (
        {"instruction": "Sky?", "chosen": "Blue.", "rejected": "Green."},
        "Sky?",
        ("Blue.", "Green."),
        None,
    ),
    # Intel/orca_dpo_pairs.
    "question pairs": (
        {"system": "Be brief.", "question": "Sky?", "chosen": "Blue.", "rejected": "Green."},
        (SYSTEM, USER),
        ("Blue.", "Green."),
        None,
    ),
    "a system column beside a system turn": (
        {"system": "Be long.", "messages": [turn("system", "Be brief."), SKY, BLUE]},
        (SYSTEM, USER),
        ("Blue.",),
        None,
    ),
    "question with output": ({"question": "Sky?", "output": "Blue."}, "Sky?", ("Blue.",), None),
    "LMArena's battles": (
        {
            "model_a": "m",
            "model_b": "n",
            "winner": "model_b",
            "conversation_a": [SKY, GREEN],
            "conversation_b": [SKY, BLUE],
        },
        (USER,),
        ("Blue.", "Green."),
        None,
    ),
    "OpenAI's pairs": (
        {
            "input": {"messages": [SKY], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [BLUE],
            "non_preferred_output": [GREEN],
        },
        (USER,),
        ("Blue.", "Green."),
        None,
    ),
    "Label Studio's tasks": (
        {
            "data": {"prompt": "Sky?", "answer1": "Green.", "answer2": "Blue."},
            "annotations": [{"result": [{"type": "pairwise", "value": {"selected": "right"}}]}],
        },
        "Sky?",
        ("Blue.", "Green."),
        None,
    ),
    "Label Studio's flat tasks": (
        {
            "prompt": "Sky?",
            "answer1": "Blue.",
            "answer2": "Green.",
            "annotation_id": 3,
            "comparison": [{"selected": "left"}],
        },
        "Sky?",
        ("Blue.", "Green."),
        None,
    ),
    "Argilla's records": (
        {
            "fields": {"prompt": [SKY], "response1": "Blue.", "response2": "Green."},
            "responses": {"preference": [{"value": "response1", "user_id": "u"}]},
        },
        (USER,),
        ("Blue.", "Green."),
        None,
    ),
}
LABELLED: dict[str, tuple[dict[str, Any], Any]] = {
    "prompt, completion, label": ({"prompt": "Sky?", "completion": "Blue."}, "Sky?"),
    "turns, completion, label": ({"prompt": [SKY], "completion": [BLUE]}, (USER,)),
    "messages, label": ({"messages": [SKY, BLUE]}, (USER,)),
    "ShareGPT, label": ({"conversations": [said("human", "Sky?"), said("gpt", "Blue.")]}, (USER,)),
    "Alpaca, label": ({"instruction": "Sky?", "output": "Blue."}, "Sky?"),
}
"""KTO's rows without their label: each says "Blue."."""
