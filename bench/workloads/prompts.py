"""Prompts: English sentences from a fixed word list, a function of seed and index alone.

Prompts of one load begin with different words (the list is longer than a load has streams), so that a server
which keeps prefixes finds nothing to reuse: llama-server in a slot or its prompt cache, vLLM in its blocks. What
is meant to be shared is asked for: `shared_prompt`. Nearly every word is one token to current models, and so are
a comma and a full stop: a prompt of `n_tokens` comes out within a few per cent, and a load reports the server's
own count.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice


def _each(words: str) -> list[str]:
    return words.split()


ADJECTIVES = _each("""
    Quiet Small Young Early Bright Simple Strong Modern Green Open Public Local Heavy Warm Cold Common Deep Fast
    Final Fresh Happy Large Light Long Major Natural Old Other Popular Private Rich Short Slow Special Sweet Tall
    Various Wild Wide White Black Blue Red Golden Hidden Northern Southern Western Eastern Foreign Ancient Basic
""")
NOUNS = _each("""
    farmers rivers teachers students houses gardens birds workers books engines cities roads ships forests stories
    letters markets doctors artists bridges clouds machines songs villages windows children mountains schools
    soldiers stars tools trees trains visitors walls writers horses islands keys leaders lessons maps
""")
VERBS = _each("""
    carry follow watch build cross find help reach remember visit support protect cover change bring keep join
    leave move pass paint serve share study touch welcome measure describe collect
""")
PLACES = _each("""
    water city school market forest station harbor valley library kitchen bridge garden temple field
""")


def prompt(seed: str, index: int, n_tokens: int) -> str:
    """The prompt of request `index` of a load."""
    start = random.Random(seed).randrange(len(ADJECTIVES))
    return _text(random.Random(f"{seed}/{index}"), ADJECTIVES[(start + index) % len(ADJECTIVES)], n_tokens)


def shared_prompt(n_tokens: int) -> str:
    """A system prompt, the same for every request of every load."""
    return _text(random.Random("shared"), "Always", n_tokens)


def _text(rng: random.Random, opening: str, n_tokens: int) -> str:
    words = [opening, *islice(_words(rng), n_tokens - 1)]
    return " ".join(words).replace(" ,", ",").replace(" .", ".")


def _words(rng: random.Random) -> Iterator[str]:
    """Words and marks of sentence after sentence, from the second word of the first."""
    while True:
        yield from (rng.choice(NOUNS), rng.choice(VERBS), rng.choice(ADJECTIVES).lower(), rng.choice(NOUNS))
        yield from ("near", "the", rng.choice(PLACES), ",", "and", rng.choice(NOUNS), rng.choice(VERBS))
        yield from ("them", ".", rng.choice(ADJECTIVES))
