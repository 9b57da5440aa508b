"""The phrases by which behaviours.py knows meta-commentary and hedging: a table of named rules, with examples.

A rule is a regular expression over English text with straight apostrophes, whatever the case. Each rule is one way
of saying the same thing; a completion shows the behaviour where any of them is found. How often they are right was
measured on completions labelled by a reader (docs/metrics.md). To add a phrase: one row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_AI = (
    r"(?:ai|artificial intelligence|(?:large |ai )*language model|(?:text-based |ai )+(?:model|assistant)"
    r"|assistant)"
)
_ABLE = (
    r"help|assist|provide|offer|suggest|describe|explain|give you|answer|ask you|share|find"
    r"|consider|try to|see if"
    r"|follow|play the role|do my best|accommodate"
)
_MINE = r"(?:response|answer|explanation|translation|suggestions?|analysis|classification|reasoning|goal was)"


@dataclass(frozen=True)
class Phrase:
    """name: what it says. pattern: of text in lower case. example: a text that it finds."""

    name: str
    pattern: str
    example: str


META_COMMENTARY = (
    Phrase(
        "what the writer is",
        rf"\bas an? (?:\w+ (?:and \w+ )?)?{_AI}\b"
        rf"|\bi(?:'m| am) (?:just |only |merely )?(?:an? |your )?(?:\w+ )?{_AI}\b",
        "As an AI language model, I have no opinions.",
    ),
    Phrase(
        "where its knowledge ends",
        r"\bi (?:was|have been) (?:trained|designed|programmed)\b|\bmy (?:training"
        r"|(?:current )?knowledge|last update)\b",
        "As of my knowledge cutoff in September 2021, he has not.",
    ),
    Phrase(
        "readiness to help",
        r"\b(?:happy|glad|pleased|delighted|ready|love|here) to (?:help|assist|provide|play|answer"
        r"|hear|explain|share)\b"
        rf"|\bi(?:'ll| will| can| could|'d)(?: certainly| also| definitely| only| at least)? (?:{_ABLE})\b",
        "Sure, I'd be happy to help you with that!",
    ),
    Phrase(
        "what it will not or cannot do",
        r"\bi(?:'m| am) (?:not able|unable) to\b|\bi(?:'m| am) sorry,? (?:but|for any)\b"
        r"|\bi (?:cannot|can't|can not|am unable to) (?:\w+ )?(?:provide|access|create|draw|browse"
        r"|search|predict|run"
        r"|write|assist|help(?! but)|fulfill?|give|determine|confirm|make a)\b"
        r"|\bi (?:don't|do not) (?:\w+ )?(?:have (?:\w+ )?(?:access|personal|real-time|opinions?"
        r"|beliefs?|feelings"
        r"|emotions|preferences|facility|ability|capabilit\w+|information|your)|possess|understand)\b",
        "I cannot provide a story that spreads misinformation.",
    ),
    Phrase(
        "a wish that it was of use",
        r"(?<!we )\bhope (?:that )?(?:this|that|these|those|it|the|my|you|everything)\b[^.!?\n]{0,80}"
        r"\b(?:help|useful|clarif|answers|clear)|(?<!we )\bhope you (?:will )?enjoy\b",
        "I hope these tips help!",
    ),
    Phrase(
        "an invitation to go on",
        r"\blet me (?:know|think|explain)\b|\bfeel free to (?:ask|reach out|let me|share|provide)\b"
        r"|\bhesitate to (?:ask|reach)\b|\b(?:is there|if there's|if there is) anything else\b"
        r"|\bwould you like me to\b"
        r"|\bif you (?:have|need|want|'d like|would like)(?: any| more| further| me| additional| other)+"
        r" (?:\w+ ){0,2}(?:questions?|help|assistance|information|details|concerns|to)\b"
        r"|\b(?:please|could you|can you)(?: please)? (?:provide (?:me|the|more|some|additional)"
        r"|clarify|rephrase|specify)\b",
        "Let me know if you have any other questions.",
    ),
    Phrase(
        "the asker's words",
        r"\byour (?:question|request|query|inquiry|prompt|task|instructions?)\b"
        r"|\bthe question (?:itself|being asked|asks"
        r"|is asking|you)\b|\bthis question (?:is asking|literally|as)\b|\byou(?:'ve| have)? provided\b"
        r"|\b(?:thank you|thanks) for (?:your|sharing|asking|the|providing|reaching)\b"
        r"|\bi understand (?:the problem|the task|your|that you|you)\b|\bglad (?:to hear|you|that you)\b",
        "Thank you for your question.",
    ),
    Phrase(
        "the task",
        r"\b(?:in|to (?:complete|solve|accomplish|answer)) (?:this|the) (?:task|question)\b"
        r"|\bthe task (?:is|requires|asks)\b"
        r"|\b(?:i am|we are|you are|i'm|we're) (?:asked|required|tasked|given (?:a|an|the) \w+ and asked)\b",
        "In this task, you are asked to tag a word.",
    ),
    Phrase(
        "its own reply",
        rf"\bmy {_MINE}\b|\b(?:in )?this (?:response|answer|solution|slide) (?:is|was|should|provides"
        rf"|makes|acknowledges)\b"
        r"|\bin this response\b|\bthe (?:above )?response (?:should|above|is intended)\b"
        rf"|\b(?:here is|here's|here are|below is) (?:my {_MINE}|(?:a|an"
        rf"|the)(?: \w+){{0,4}} (?:response|answer))\b"
        r"|\bi(?:'ve| have)? (?:translated|rephrased|paraphrased|provided|summarized|done my best"
        r"|used simple|avoided using)\b",
        "In this response, I provided helpful tips.",
    ),
    Phrase(
        "how far its reply goes",
        r"\b(?:keep in mind|note|remember)\b[,:]?(?: that)?,? (?:this|these) (?:\w+ ){0,3}?(?:is|are"
        r"|only|provides?|may|might)\b"
        r"|\bthis is (?:just|only) (?:a|an|one|my)\b|\bthis is a general (?:outline|overview)\b"
        r"|\bare just (?:one|a few) possible\b",
        "Keep in mind that this table only gives an overview.",
    ),
)
"""Speaks of itself, of its reply, or of the exchange, rather than of its subject."""

HEDGING = (
    Phrase(
        "unsure",
        r"(?<!if )\bi(?:'m| am) (?:not |un)(?:\w+ )?(?:sure|certain)\b|\bi (?:really |also "
        r"|honestly )?(?:don't|do not) know\b(?! (?:what|how))"
        r"|\b(?:i|we) (?:can't|cannot) be (?:\w+ )?(?:sure|certain)\b|\bit is (?:difficult"
        r"|hard) to be (?:sure|certain)\b",
        "I'm not sure that's a real person.",
    ),
    Phrase(
        "hard to say",
        r"\b(?:hard|difficult|impossible|tough)(?: for me)? to (?:say|tell|know|predict|determine"
        r"|pinpoint|give|provide"
        r"|estimate|answer|be)\b(?! (?:whether|if) the hypothesis)|\bno way to (?:know|tell)\b"
        r"|\bnot possible(?: for me)? to (?:say|know|predict|determine|pinpoint|give|be)\b"
        r"(?! (?:whether |if )?the hypothesis)",
        "It's hard to say who invented it.",
    ),
    Phrase(
        "no answer is given",
        r"\bi (?:cannot|can't|am unable to|'m unable to)(?: \w+)? (?:determine|confirm|say"
        r"|tell(?! you)|predict|make a definitive"
        r"|provide (?:a definitive|an exact) answer|provide an answer (?:as|since|because|without))\b"
        r"|\b(?:does not|doesn't|not) (?:provide )?enough information\b"
        r"(?! to determine (?:whether|if) the hypothesis)|\bwe (?:cannot"
        r"|can't) (?:determine|pinpoint)\b(?! (?:whether|if) the hypothesis)"
        r"|\bwithout (?:more|further|additional|knowing)\b[^.\n]{0,60}\b(?:difficult|hard"
        r"|not possible|impossible|cannot)\b",
        "I cannot determine whether it is vegetarian.",
    ),
    Phrase(
        "it depends",
        r"\bit (?:really |all |largely |mostly )?depends\b"
        r"|\bthe answer (?:to \w+ question )?(?:would |will |may |might )?depends?\b"
        r"|\bthat (?:really |all )?depends\b|\b(?:will|would) depend on your\b"
        r"|\bwhether\b[^.\n]{0,80}\bdepends on\b",
        "It depends on your goals.",
    ),
    Phrase(
        "it seems",
        r"\b(?<!such that )(?:it|that|this) (?:also )?(?:seems|appears) "
        r"(?:to me|like|that|to be|your|the|as if)\b(?! the hypothesis)"
        r"|\bseems (?:to be )?(?:the )?(?:most|best|plausible)\b|\b(?:that|this) seems very likely\b"
        r"|(?:^|[.!?]\s+)you seem to\b",
        "It seems like the film might be another one.",
    ),
    Phrase(
        "a guess",
        r"\b(?:my (?:best |educated )?guess|just a guess|an educated (?:guess|estimate)"
        r"|i would predict|i suppose)\b"
        r"|(?<!can )\bi(?:'m going to|'d| would| will|'ll)? guess\b",
        "This is just a guess from the emojis.",
    ),
    Phrase(
        "maybe",
        r"\A\W*(?:maybe|perhaps|possibly)\b",
        "Maybe. That is a complicated question.",
    ),
    Phrase(
        "unclear",
        r"\b(?:it is|it's|remains?|answer is|is (?:a bit|still|also|somewhat)) (?:\w+ )?(?:uncertain"
        r"|unclear)\b"
        r"|\borigins?\b[^.\n]{0,60}\b(?:is|are) (?:un\w+ )?(?:uncertain|unclear|unknown)\b"
        r"|\bnot (?:\w+ )?clear (?:whether|which) the\b",
        "It is uncertain who will win.",
    ),
    Phrase(
        "may be wrong",
        r"\b(?:may|might) not (?:\w+ )?(?:be (?:accurate|correct|a perfect match|entirely|up to date)"
        r"|reflect|match)\b"
        r"|\b(?:would|is) (?:most )?likely (?:be |to be )?(?:\"|“|categorized|classified)",
        "These estimates may not reflect the present.",
    ),
)
"""Says that its writer is unsure of the answer, or gives no definite one. Not words of possibility about the
subject: "this might hurt" is advice."""


def found_by(phrases: tuple[Phrase, ...]) -> re.Pattern[str]:
    """Any of the phrases."""
    return re.compile("|".join(f"(?:{phrase.pattern})" for phrase in phrases), re.IGNORECASE | re.MULTILINE)
