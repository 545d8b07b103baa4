"""Chinese text as words, by jieba where it is installed (extra ``words``)."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache

WITHOUT = "measures on words are left out: jieba is not installed (pip install medtune[words])"
REMEMBERED = 4096  # texts: a gold answer is compared with those of several systems


def has_words() -> bool:
    """Whether texts can be cut into words."""
    return importlib.util.find_spec("jieba") is not None


@lru_cache(REMEMBERED)
def cut_words(text: str) -> tuple[str, ...]:
    """The words of a text, by jieba's default dictionary; white space is none."""
    return tuple(word for word in cutter()(text) if not word.isspace())


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
