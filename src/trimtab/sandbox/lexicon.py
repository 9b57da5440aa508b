"""How the judge reads words: every way of naming an entity, a level, a comparison or a recommendation.

`lex(domain, text)` turns a sentence into items. An item is (tag, value): what a word or phrase means.
The manners' phrases are a part of what is read; the rest are paraphrases that others may use.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from trimtab.sandbox.tables import PHRASES
from trimtab.sandbox.world import DOMAIN_ATTRIBUTES, DOMAIN_NEEDS, WORLD

Item = tuple[str, Any]
Trie = dict[str, list[tuple[tuple[str, ...], Item]]]

LOW, MIDDLE, HIGH = frozenset({0}), frozenset({1}), frozenset({2})

# attribute -> words that name it, words that say its level alone (low, middle, high), and
# comparatives (towards low, towards high). "a b|c d" are alternatives.
WORDS: dict[str, tuple[str, tuple[str, str, str], tuple[str, str]]] = {
    "city.rent": (
        "rent|rents|housing|homes|houses|flats|apartments|housing costs|living costs|prices",
        ("cheap|affordable|inexpensive|budget friendly", "", "expensive|pricey|costly|unaffordable"),
        ("cheaper|more affordable|less expensive", "more expensive|pricier|costlier|less affordable"),
    ),
    "city.winter": (
        "winter|winters|cold season|weather",
        (
            "mild|warm|gentle|frost free",
            "cool|chilly",
            "harsh|harshest|coldest|freezing|severe|icy|bitter|snowy|cold|frosty",
        ),
        ("milder|warmer|gentler", "harsher|colder|snowier|chillier"),
    ),
    "city.noise": (
        "noise|streets|nights",
        ("quiet|calm|peaceful|silent|tranquil", "lively|busy", "noisy|loud|rowdy"),
        ("quieter|calmer|more peaceful|less noisy", "noisier|louder|livelier|busier"),
    ),
    "city.transit": (
        "transit|public transport|transport|buses|trains|public transit|public transportation",
        ("", "", ""),
        ("", ""),
    ),
    "city.jobs": (
        "jobs|job|job market|work|careers|job offers|employment|vacancies",
        ("", "", "plenty of work"),
        ("", ""),
    ),
    "city.nature": (
        "nature|green places|green space|greenery|countryside|parks",
        ("no nature", "", "surrounded by nature|right next to nature|near nature|near to nature"),
        ("farther from nature|further from nature", "closer to nature|nearer to nature"),
    ),
    "food.time": (
        "cook|cooking|cooking time|time|prepare",
        (
            "quick|fast|quickly|ready in minutes|cooks in minutes",
            "half an hour",
            "slow|slowly|takes ages|takes hours|for hours",
        ),
        ("quicker|faster", "slower|more slowly"),
    ),
    "food.price": (
        "price|cost|costs|priced",
        (
            "cheap|affordable|inexpensive|does not cost much|do not cost much",
            "",
            "expensive|pricey|costly|costs much",
        ),
        ("cheaper|costs less|less expensive|more affordable", "pricier|more expensive|costs more|costlier"),
    ),
    "food.protein": (
        "protein",
        ("hardly any protein|almost no protein", "", "protein rich|full of protein|packed with protein"),
        ("", ""),
    ),
    "food.spice": (
        "spice|taste|heat",
        ("mild|not spicy|bland", "slightly spicy|a little spicy", "spicy|hot|fiery"),
        ("milder|less spicy", "spicier|hotter"),
    ),
    "food.heft": (
        "filling|meal|fills you up|stomach",
        ("light|not filling", "", "heavy|filling|hearty|fills you up"),
        ("lighter|less filling", "heavier|more filling|heartier"),
    ),
    "animal.space": (
        "space|room|yard",
        ("fits in a small room|hardly any space", "", "huge yard"),
        ("", ""),
    ),
    "animal.noise": (
        "noise|sound|sounds",
        ("quiet|silent|hardly makes a sound", "", "loud|noisy"),
        ("quieter|less noisy|less loud", "louder|noisier"),
    ),
    "animal.care": (
        "care|attention|upkeep|daily work",
        ("low maintenance|easy to care for|hardly any care", "", "high maintenance|demanding"),
        ("easier to keep|easier to care for", "harder to keep|more demanding"),
    ),
    "animal.warmth": (
        "affection|character",
        ("shy|timid|unfriendly|distant", "", "friendly|affectionate|loving|sociable|cuddly"),
        ("shyer|less friendly", "friendlier|more friendly|more affectionate"),
    ),
    "animal.life": (
        "life|lives|life span|lifespan|years",
        ("short lived|dies young|dies early", "", "long lived|for decades|live for decades"),
        ("lives shorter|shorter life|shorter life span", "lives longer|longer life|longer lived"),
    ),
    "tool.weight": (
        "weight|carry|weighs",
        ("light|lightweight", "", "heavy|weighs a ton"),
        ("lighter|easier to carry", "heavier|harder to carry"),
    ),
    "tool.price": (
        "price|cost|costs|priced",
        ("cheap|affordable|inexpensive", "", "expensive|pricey|costly"),
        ("cheaper|costs less|less expensive", "pricier|more expensive|costs more|costlier"),
    ),
    "tool.skill": (
        "skill|practice|training|use|learn",
        (
            "easy|simple|anyone can use|easy to learn|no training|no practice",
            "",
            "hard to learn|difficult|tricky|complicated",
        ),
        ("easier to use|simpler|easier to learn|easier", "harder to use|harder to learn|trickier|harder"),
    ),
    "tool.noise": (
        "noise|sound",
        ("quiet|silent", "", "loud|noisy|deafening"),
        ("quieter|less noisy", "louder|noisier"),
    ),
    "tool.strength": (
        "strength|working life|lasts|durability",
        ("fragile|flimsy|breaks quickly|delicate", "", "sturdy|durable|robust|tough|nearly unbreakable"),
        ("more fragile|flimsier|less sturdy", "sturdier|more durable|lasts longer|tougher|stronger"),
    ),
}
# Grades mean something only beside the name of an attribute: "low" beside "rent".
GRADES: dict[str, frozenset[int]] = {
    word: levels
    for levels, words in (
        (LOW, "low|little|few|small|minimal|tiny|weak|poor|bad|terrible|short|scarce|limited|hardly any"),
        (LOW, "not much|not many"),
        (MIDDLE, "average|medium|moderate|some|fair|decent|okay|middling|reasonable|normal|a fair amount of"),
        (HIGH, "high|lots|many|much|large|big|huge|great|excellent|good|strong|superb|long|plenty|abundant"),
        (HIGH, "a lot of|a lot"),
    )
    for word in words.split("|")
}
COMPARATIVES = {
    word: sign
    for sign, words in (
        (-1, "lower|less|fewer|smaller|poorer|weaker|shorter"),
        (1, "higher|more|greater|larger|bigger|stronger|longer"),
    )
    for word in words.split("|")
}
SOFTENERS = "fairly|somewhat|moderately|slightly|a bit|a little|rather|reasonably|quite|relatively|pretty"
FITS = (
    "best|better|fits|fit|suits|suit|ideal|perfect|right choice|good choice|great choice|winner|wins|win|"
    "better choice|best choice|better option|best option|good option|works|work well|right one|"
    "qualifies|qualify|good fit|good for|great for|well suited|the one to take|"
    "yes|serves|meets|is right|are right|way to go|safe bet|top pick|made for|the one|"
    "recommendation|my pick|pick is"
)
ORDERS = (
    "choose|pick|recommend|suggest|go with|prefer|opt for|would take|should take|take the|go for|select|"
    "settle on|vote for|buy|move to|stick with"
)
REJECTS = (
    "avoid|skip|reject|rule out|stay away from|forget|bad choice|poor choice|poor fit|wrong choice|"
    "worse choice|worst|unsuitable|leave out|falls short|fall short|fails|fail|worse|drop|"
    "worse option|loses|lose"
)
COMMON: dict[str, str] = {
    "fits": FITS,
    "label": "answer|verdict|conclusion|choice",
    "orders": ORDERS,
    "rejects": REJECTS,
    "over": "over|rather than|instead of|ahead of",
    "than": "than",
    "beats": "beats|beat|outdoes",
    "where": "where|whose|who",
    "not": "not|never|false that|untrue|wrong to say|nor is|nor does|no|without|cannot|hardly|none|nobody|nothing",
    "neither": "neither|none of them|none of these",
    "all": "both|all|each|every|all of them|all three|all four|everything|either",
    "it": "it|this|that|these|those|they|which|its|their|them|that one|this one",
    "self": "i|my|me|we|our|user|you|your|people|everyone|everybody|data",
    "former": "the former|the first|the first one|first one|the first option",
    "latter": "the latter|the second|the second one|second one|the second option",
    "other": "the other|the other one|the rest|the others",
    "aside": "unlike|compared with|compared to|in contrast to|as opposed to|between|of",
    "and": "and|but|while|because|so|since|whereas|however|although|though|as|or|nor|therefore|hence|thus|if|when",
    "": "no doubt|not only|not just|of course|neither good nor bad|nothing else|"
    "no question|no wonder|is that|in short|on the other hand",
}
# "for cheap housing" names a need; without these words before it, it would be a claim.
NEED_LEADS = ("for", "to", "need", "want", "of", "about", "after", "with", "value", "like", "wants", "needs")
FIT_LEADS = {
    **dict.fromkeys(NEED_LEADS, None),
    **dict.fromkeys(("fits", "fit", "suits", "suit", "serves", "serve", "good for", "great for"), True),
    **dict.fromkeys(("bad for", "poor for", "wrong for", "terrible for"), False),
}
TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|[,;()—–:]")


def _alternatives(words: str) -> list[str]:
    return [w for w in words.split("|") if w]


def _domain_phrases(domain: str) -> dict[str, Item]:
    """Phrase -> meaning. Later entries win, so what is exact comes last."""
    table: dict[str, Item] = {}
    for grade, levels in GRADES.items():
        table[grade] = ("grade", levels)
    for word, sign in COMPARATIVES.items():
        table[word] = ("more", (None, sign))
    # Quality words lean to either reading; the reader decides by what stands beside them.
    table["better"], table["worse"] = ("better", 1), ("better", -1)
    for tag, words in COMMON.items():
        for word in _alternatives(words):
            table.setdefault(word, (tag, word))
    for word in _alternatives(SOFTENERS):
        table[word] = ("soft", word)
    for attribute in DOMAIN_ATTRIBUTES[domain]:
        topics, levels3, comparatives = WORDS[attribute.key]
        for words in _alternatives(topics):
            table[words] = ("topic", attribute.key)
        for at, words_of_level in enumerate(levels3):
            for words in _alternatives(words_of_level):
                table[words] = ("level", (attribute.key, frozenset({at})))
        for sign, words_of_sign in zip((-1, 1), comparatives, strict=True):
            for words in _alternatives(words_of_sign):
                table[words] = ("more", (attribute.key, sign))
    for attribute in DOMAIN_ATTRIBUTES[domain]:
        for at, phrases in enumerate(PHRASES[attribute.key]):
            for phrase in phrases:
                table.update(_inflected(phrase, ("level", (attribute.key, frozenset({at})))))
    for need in DOMAIN_NEEDS[domain]:
        for words in (*need.goals, *need.nouns):
            for lead, fits in FIT_LEADS.items():
                table[f"{lead} {words}"] = ("need", (need.key, fits))
            for lead in ("and", "and also", "plus", "and for", "and to"):
                table[f"{lead} {words}"] = ("also", need.key)
    for entity in WORLD[domain]:
        for form in (entity, entity + "s", entity + "'s"):
            table[form.lower()] = ("entity", entity)
    return table


def _inflected(phrase: str, item: Item) -> dict[str, Item]:
    """The phrase without its verb where the rest tells enough, and with the verb bare and singular."""
    verb, _, rest = phrase.partition(" ")
    forms = {phrase: item, f"{verb.removesuffix('s')} {rest}": item}
    if verb in ("has", "is", "needs", "takes", "makes"):
        forms[rest] = item
    if verb == "needs":
        forms[f"requires {rest}"] = forms[f"require {rest}"] = item
    return forms


@cache
def _trie(domain: str) -> Trie:
    """First word -> its phrases, longest first."""
    trie: Trie = {}
    for phrase, item in _domain_phrases(domain).items():
        words = tuple(phrase.split())
        trie.setdefault(words[0], []).append((words, item))
    for entries in trie.values():
        entries.sort(key=lambda entry: -len(entry[0]))
    return trie


def lex(domain: str, sentence: str) -> list[Item]:
    """The sentence as items; words without a meaning here become ("word", word)."""
    tokens = [t.replace("’", "'") for t in TOKEN.findall(sentence.lower().replace("-", " "))]
    trie, i = _trie(domain), 0
    items: list[Item] = []
    while i < len(tokens):
        token = tokens[i]
        for words, item in trie.get(token, ()):
            if item[0] == "also" and not (items and items[-1][0] == "need"):
                continue  # "for peace and cheap housing" names two needs, "is big and cheap" none
            if len(words) == 1 or tuple(tokens[i : i + len(words)]) == words:
                items.append(("need", (item[1], None)) if item[0] == "also" else item)
                i += len(words)
                break
        else:
            if token.endswith("n't"):
                items.append(("not", token))
            elif token in (",", ";", ":", "(", ")", "—", "–"):
                items.append(("and", token))
            else:
                items.append(("word", token))
            i += 1
    return items
