"""Chinese text as words, by jieba where it is installed (extra ``words``)."""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache

WITHOUT = "measures on words are left out: jieba is not installed (pip install medtune[words])"
# jieba's time grows with the square of a run that its dictionary does not know, such as one character over
# and over; so it gets a long text in stretches, at whose ends a word may be parted.
STRETCH = 4096  # characters
REMEMBERED = 1 << 14  # texts: a gold answer is compared with those of several systems


def has_words() -> bool:
    """Whether texts can be cut into words."""
    return importlib.util.find_spec("jieba") is not None


@lru_cache(REMEMBERED)
def cut_words(text: str) -> tuple[str, ...]:
    """The words of a text, by jieba's default dictionary; white space is none."""
    cut = cutter()
    stretches = (text[start : start + STRETCH] for start in range(0, len(text), STRETCH))
    # Interned: thousands of texts are remembered, and they are made of the same words.
    return tuple(sys.intern(word) for stretch in stretches for word in cut(stretch) if not word.isspace())


@cache
def cutter() -> Callable[[str], list[str]]:
    """Jieba's cut with a dictionary of its own.

    jieba keeps the dictionary that it has read in a file in the folder that all users share, and takes one
    that is there without a question; so it gets a folder of its own, and reads for a second in each process.
    """
    import jieba

    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    with tempfile.TemporaryDirectory(prefix="medtune-") as folder:
        tokenizer.tmp_dir = folder
        tokenizer.initialize()
    return tokenizer.lcut  # type: ignore[no-any-return]
