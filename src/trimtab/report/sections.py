"""The sections of the page, in their order. To add one: a function of View that gives its parts, none where the
results have nothing for it, and a row of SECTIONS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trimtab.evaluation.behaviours import BEHAVIOURS
from trimtab.report.browser import completions
from trimtab.report.captions import differences
from trimtab.report.data_tables import in_words
from trimtab.report.dynamics import curve_names, over_optimisation_names
from trimtab.report.parts import Folded, Heading, Part, ShownTable, Terms, Text
from trimtab.report.table import filled
from trimtab.report.tables import behaviour_label
from trimtab.report.view import View


@dataclass(frozen=True)
class Section:
    """name: its anchor. parts: what is in it. open: whether it is shown before somebody opens it."""

    name: str
    title: str
    parts: Callable[[View], Sequence[Part]]
    open: bool = False


def methods(view: View) -> list[Part]:
    """Every method's numbers; the head of the page draws the win rates."""
    if "methods" not in view.tables:
        return [Text("No method was evaluated.")]
    return [
        ShownTable(filled(view.tables["methods"])),
        *view.figure("judge_scores"),
        *view.table("win_rates", titled=True),
    ]


def instructions(view: View) -> list[Part]:
    """Instructions that a program checks."""
    kinds = view.table("instruction_kinds", "dense")
    folded = [Folded(view.tables["instruction_kinds"].caption, kinds, "kinds")] if kinds else []
    return [*view.table("instructions"), *folded]


def tasks(view: View) -> list[Part]:
    """Standard tasks, and what methods differ by in them."""
    pairs, metrics = view.table("task_pairs", "comparisons"), view.table("task_metrics", titled=True)
    folded = [Folded("Every pair of methods, and every other metric", [*pairs, *metrics], "task-pairs")]
    return [*view.table("tasks"), *(folded if pairs or metrics else [])]


def comparisons(view: View) -> list[Part]:
    """Methods in pairs, over the same prompts."""
    if "comparisons" not in view.tables:
        return []
    headlines, others = differences(list(view.drawings))
    more = [*_figures(view, others), *view.table("comparisons", "comparisons")]
    return [
        *_figures(view, headlines),
        *view.table("pairs", "dense"),
        *view.table("ranking", titled=True),
        Folded("Every comparison with its p-values, and the other figures", more, "every-comparison"),
    ]


def judge(view: View) -> list[Part]:
    """Its card: what its own judgements say of it."""
    own = view.table("self_preference", "comparisons", titled=True)
    return [*view.table("judge"), *own, *view.table("null_judges", titled=True)]


def second_judges(view: View) -> list[Part]:
    """What others say of the same completions."""
    pairs = view.table("second_judge_pairs", "dense three")
    folded = [Folded(view.tables["second_judge_pairs"].caption, pairs, "second-judge-pairs")] if pairs else []
    return [*view.table("second_judges", "comparisons"), *folded]


def people(view: View) -> list[Part]:
    """What people's labels say, and how far the judge agrees with them."""
    return [
        *view.table("people", "dense"),
        *view.table("agreement", titled=True),
        *view.table("agreement_by_length", titled=True),
        *view.table("voters", titled=True),
    ]


def seeds(view: View) -> list[Part]:
    """What each training seed gave."""
    every = view.table("seeds_all", "comparisons")
    folded = [Folded(view.tables["seeds_all"].caption, every, "every-seed")] if every else []
    return [*view.table("seeds", "comparisons"), *folded]


def hacking(view: View) -> list[Part]:
    """Training reward and judge against the KL."""
    return _figures(view, list(over_optimisation_names(view.results).values()))


def curves(view: View) -> list[Part]:
    """Of every stage."""
    return _figures(view, [*curve_names(view.results).values(), "length_penalty"])


def lengths(view: View) -> list[Part]:
    """Of completions, in tokens."""
    return [*view.figure("lengths"), *view.table("lengths")]


def behaviours(view: View) -> list[Part]:
    """What completions do, by rules."""
    if "behaviours" not in view.tables:
        return []
    definitions = Terms({behaviour_label(name): row.definition for name, row in BEHAVIOURS.items()})
    how = Folded("How these are counted", [definitions], "behaviour-rules")
    return [*view.figure("behaviours"), *view.table("behaviours"), how]


def data(view: View) -> list[Part]:
    """Rows that were read, and what the audit found in them."""
    return [*view.table("splits", "left"), *_audit(view)]


def _audit(view: View) -> list[Part]:
    audit = view.results.audit
    if audit is None:
        return []
    text = (
        f"{audit.pairs} pairs: {audit.identical_pairs} with chosen identical to rejected, {audit.equal_scores} "
        f"with equal scores, {audit.empty_completions} empty completions, "
        f"{audit.duplicate_prompts} repeated prompts."
    )
    if audit.chosen_longer_share is not None:
        longer = f"{100 * audit.chosen_longer_share:.1f} %"
        text += f" Of the pairs that differ, the chosen text is the longer in {longer}."
    return [
        Heading("What the preferences hold"),
        Text(text),
        *view.table("words"),
        *view.table("markers", titled=True),
    ]


def settings(view: View) -> list[Part]:
    """All of them: those that were set, and those at their defaults."""
    defaults = view.table("defaults", "left")
    folded = [Folded(view.tables["defaults"].caption, defaults, "default-settings")] if defaults else []
    return [*view.table("settings", "left", titled=True), *folded]


def provenance(view: View) -> list[Part]:
    """With it somebody else can repeat this."""
    p = view.results.provenance
    unknown = "not recorded"
    facts = {
        "Command": p.command or unknown,
        "Date": p.date or unknown,
        "Device": p.device or unknown,
        "Decoding": p.decoding or unknown,
        "Seeds": ", ".join(map(str, p.seeds)) or unknown,
        "Versions": in_words(p.versions),
    }
    return [
        Terms(facts),
        *([Terms(p.hashes, code=True)] if p.hashes else []),
        *view.table("sources", "left", titled=True),
        *view.table("costs", titled=True),
        Text("results.json holds every number on this page; tables/ and figures/ hold them as files.", soft=True),
    ]


def _figures(view: View, names: Sequence[str]) -> list[Part]:
    return [part for name in names for part in view.figure(name)]


SECTIONS = (
    Section("methods", "Methods", methods, open=True),
    Section("instructions", "Instructions", instructions),
    Section("tasks", "Standard tasks", tasks),
    Section("comparisons", "Comparisons between methods", comparisons),
    Section("judge", "Can the judge be trusted?", judge),
    Section("second-judges", "Second judges", second_judges),
    Section("people", "Judged by people", people),
    Section("seeds", "Training seeds", seeds),
    Section("hacking", "Is the reward being hacked?", hacking),
    Section("curves", "Training and validation curves", curves),
    Section("lengths", "Lengths", lengths),
    Section("behaviours", "Behaviours", behaviours),
    Section("completions", "Completions", completions),
    Section("data", "Data and audit", data),
    Section("settings", "Settings", settings),
    Section("provenance", "Provenance", provenance),
)


@dataclass(frozen=True)
class Shown:
    """A section that has parts."""

    section: Section
    parts: Sequence[Part]


def shown_sections(view: View) -> list[Shown]:
    """Those that the results can fill."""
    made = [Shown(section, section.parts(view)) for section in SECTIONS]
    return [one for one in made if one.parts]
