"""Plain English sentences from a small seeded grammar: the text of the synthetic corpus.

Words and patterns are our own, chosen for sound rather than sense: all consonants and vowels of English come up.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def make_sentences(count: int, seed: int) -> list[str]:
    """``count`` different sentences of 4 to 9 words; the same ones for the same seed on every machine."""
    draw = random.Random(seed)
    sentences: dict[str, None] = {}  # a dict keeps the order
    while len(sentences) < count:
        sentence = _sentence(draw)
        if 4 <= len(sentence.split()) <= 9:
            sentences[sentence] = None
    return list(sentences)


def _sentence(draw: random.Random) -> str:
    words: list[str] = []
    for token in _pick(draw, _PATTERNS).split():
        name = token.strip(",")
        word = _pick(draw, _WORDS[name]) if name in _WORDS else name
        if words and words[-1] == "a" and word[0] in "aeiou":
            words[-1] = "an"
        words.append(word + token[len(name) :])
    text = " ".join(words)
    return text[0].upper() + text[1:] + ("?" if words[0] in _ASKING else ".")


def _pick(draw: random.Random, choices: Sequence[str]) -> str:
    # random() is the one method whose numbers Python promises to keep for a seed; choice() is not.
    return choices[int(draw.random() * len(choices))]


_ASKING = ("why", "where", "when", "how", "will", "could", "should")

_PATTERNS = (
    "DET ADJ NOUN PAST DET NOUN PLACE",
    "DET NOUN PAST DET ADJ NOUN",
    "DET ADJ NOUN WENT PLACE",
    "DET NOUN WENT MANNER PLACE",
    "NAME PAST DET NOUN MANNER",
    "NAME and NAME PAST COUNT ADJ PLURAL",
    "NAME WENT PLACE TIME",
    "TIME, NAME PAST DET ADJ NOUN",
    "TIME, COUNT PLURAL WENT PLACE",
    "PLACE, DET NOUN WENT MANNER",
    "COUNT ADJ PLURAL WENT PLACE",
    "please VERB DET ADJ NOUN TIME",
    "please VERB COUNT PLURAL for NAME",
    "never VERB DET NOUN without DET NOUN",
    "why did NAME VERB DET ADJ NOUN",
    "where did you VERB DET NOUN TIME",
    "when will DET NOUN VERB our PLURAL",
    "how could NAME VERB COUNT ADJ PLURAL",
    "will you VERB DET NOUN with me",
    "should we VERB our PLURAL or DET NOUN",
    "if you VERB DET NOUN, NAME will laugh",
    "we should VERB DET NOUN, not DET NOUN",
    "they always VERB COUNT PLURAL PLACE",
    "DET NOUN was too ADJ for NAME",
    "the PLURAL are ADJ, but NAME is ADJ",
    "nothing looks as ADJ as DET NOUN",
    "there were COUNT ADJ PLURAL PLACE",
    "I would rather VERB DET ADJ NOUN",
    "she thought DET NOUN was ADJ",
    "he usually WENT PLACE TIME",
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("/"))


_WORDS: dict[str, tuple[str, ...]] = {
    "DET": _words("the the the a a my your our his her their"),
    "NAME": _words(
        "Joyce Ethan Sheila George Beth Victor Chuck Yvonne Hugh Zoe Martha Keith Ursula Floyd Naomi Wade "
        "Charlotte Josh Vera Doug Roy Thelma Ian Faith Owen Judith Paul Grace Hannah Luke"
    ),
    "COUNT": _words("two three four five six seven eight nine ten eleven twelve thirteen twenty thirty several few"),
    "ADJ": _words(
        "quiet yellow narrow cheap rough smooth ancient purple heavy gentle shiny fresh thick thin broad crooked "
        "empty foggy golden hollow icy jolly kind loud muddy noisy odd polite quick rusty salty tiny casual vague "
        "warm young lazy clever distant foolish precious square orange blue brown sharp soft strange enormous "
        "wooden hidden joyful nervous royal soothing healthy thirsty weird curious proud early awkward sour loose "
        "cheerful bright cloudy dusty fair genuine huge average beige urgent"
    ),
    "NOUN": _words(
        "teacher garden engine bottle village window thunder pleasure jacket orchard mouse bridge kitchen shadow "
        "vision wagon yacht zebra church thumb feather measure judge queen boy choice spoon book puzzle river "
        "mountain island ocean airport uncle apple oven elbow iron owl eagle artist author engineer umbrella envelope "
        "fire flower gate goose hammer horse jewel juice key king lamp leather lion machine mirror mother needle "
        "nurse oyster pencil pillow pocket potato prince rabbit ribbon road rope salad school shelf ship shoulder "
        "snake soldier statue storm sugar table television tiger tooth towel train treasure truck turtle valley "
        "violin voice wheel whistle wolf yard zipper bath bush chair cloud cook dish doctor dog farmer fish forest "
        "girl guard hat house joke lake law leaf letter map match moth nose page path pear phone pool push rail"
    ),
    "PLURAL": _words(
        "apples badges beaches boats boxes branches breezes bushes cages candles cherries children clothes coins "
        "cousins curtains doors edges engines faces feathers fences foxes gloves grapes guests hedges horses images "
        "jars keys ladders leaves lessons mice months moons nights noises oranges paths peaches pictures pigeons "
        "plums puddles roofs roses sausages shirts shoes shops songs stairs stones teeth thieves things toys trees "
        "voices waves wishes wolves women years youths zones"
    ),
    "VERB": _words(
        "measure follow carry choose enjoy finish gather hide join keep lift mention notice open paint push question "
        "reach save share throw trust visit watch wrap borrow avoid bathe breathe catch change chase cook cover "
        "describe draw examine explain find forget fetch guide hear imagine judge love move need offer pull repair "
        "sell show teach use value wash weigh polish"
    ),
    "PAST": _words(
        "measured followed carried chose enjoyed finished gathered hid joined kept lifted mentioned noticed opened "
        "painted pushed questioned reached saved shared threw trusted visited watched wrapped borrowed avoided "
        "bathed caught changed chased cooked covered described drew examined explained found forgot fetched guided "
        "heard imagined judged loved moved needed offered pulled repaired sold showed taught used valued washed "
        "weighed polished bought brought"
    ),
    "WENT": _words(
        "walked ran wandered marched jumped danced slept waited shouted whispered laughed vanished arrived stayed "
        "lived cried yawned sang argued floated"
    ),
    "MANNER": _words(
        "quietly slowly gently loudly happily rudely smoothly bravely carefully eagerly foolishly joyfully patiently "
        "sharply together twice alone outside again"
    ),
    "PLACE": _phrases(
        "near the church/behind the house/under the bridge/above the valley/beyond the garage/through the village/"
        "around the pool/beside the road/on the beach/at the zoo/in the kitchen/across the ocean/by the fire/"
        "in the south/along the shore/at school/in the cave/over the hedge/below the stairs/in town/"
        "between the towers/outside the shop/in the azure lagoon"
    ),
    "TIME": _phrases(
        "last night/this morning/before noon/after lunch/on Thursday/in July/at dawn/every evening/two years ago/"
        "on Tuesday/in winter/today/at four/once a month/in August/usually/during the storm/just now"
    ),
}
