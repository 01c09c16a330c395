"""From a caption to numbers: words in lower case without punctuation and stop words, and the vocabulary that counts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise

import numpy as np

STOP_WORDS = frozenset("a an the of this is digit number handwritten drawn image picture".split())


def tokenise(caption: str) -> list[str]:
    """The words of a caption that say something, in order.

    >>> tokenise("A seven, left of the handwritten three!")
    ['seven', 'left', 'three']
    """
    return [word for word in re.findall(r"\w+", caption.lower()) if word not in STOP_WORDS]


class Vocabulary:
    """The words of captions, each with its number; 0 stands for no word.

    Args:
        words: in the order of their numbers, from 1.
        longest: the most words that a caption may have.
        neighbours: pairs of words that follow each other in captions; "" is the beginning and the end.

    Raises:
        TypeError: captions that are no texts. ValueError: captions without words, too long, or with unknown words.

    >>> known = Vocabulary.of(["a seven left of a three", "the digit four"])
    >>> known.words, known.numbers(["Seven left of four"])
    (('four', 'left', 'seven', 'three'), array([[3, 2, 1]], dtype=int32))
    """

    def __init__(self, words: Iterable[str], longest: int, neighbours: Iterable[Sequence[str]] = ()):
        self.words, self.longest = tuple(words), int(longest)
        self.neighbours = frozenset((before, after) for before, after in neighbours)
        self._number = {word: number for number, word in enumerate(self.words, 1)}

    @classmethod
    def of(cls, captions: Sequence[str]) -> Vocabulary:
        """That of these captions."""
        lists = [_words(caption) for caption in captions]
        neighbours = {pair for words in lists for pair in pairwise(["", *words, ""])}
        return cls(sorted({word for words in lists for word in words}), max(map(len, lists), default=1), neighbours)

    def numbers(self, captions: Sequence[str]) -> np.ndarray:
        """`(captions, longest)`, int32: the numbers of their words, filled up with 0."""
        table = np.zeros((len(captions), self.longest), np.int32)
        for row, caption in zip(table, captions, strict=True):
            words = _words(caption)
            for word in words:
                if word not in self._number:
                    raise ValueError(f"unknown word {word!r} in {caption!r}; {self._hint(word)}")
            if len(words) > self.longest:
                raise ValueError(
                    f"{caption!r} has {len(words)} words that count, the model has learned captions of at most {self.longest}; shorten it"
                )
            row[: len(words)] = [self._number[word] for word in words]
        return table

    def doubt(self, caption: str) -> str:
        """What is unlike all captions that were learned from, in words; empty where nothing is."""
        for before, after in pairwise(["", *_words(caption), ""]):
            if (before, after) not in self.neighbours:
                where = (
                    f"{before!r} before {after!r}"
                    if before and after
                    else f"{before!r} at its end"
                    if before
                    else f"{after!r} at its beginning"
                )
                return f"no caption that was learned from has {where}; what is drawn for {caption!r} may be anything"
        return ""

    def _hint(self, word: str) -> str:
        near = get_close_matches(word, self.words, 1, cutoff=0.5)
        if near:
            return f"did you mean {near[0]!r}?"
        shown = ", ".join(self.words[:40])
        return f"the model knows {shown}{', …' * (len(self.words) > 40)}"


def _words(caption: str) -> list[str]:
    if not isinstance(caption, str):
        raise TypeError(f"a caption must be a text, got {type(caption).__name__}")
    if not (words := tokenise(caption)):
        raise ValueError(f"the caption {caption!r} says nothing; name what is to be drawn, like 'a seven'")
    return words
