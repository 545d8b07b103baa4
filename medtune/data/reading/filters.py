"""Which examples are left out for what their text is: bounds, language, repetition, expressions."""

import re
from collections.abc import Iterable

import numpy as np

from medtune.config.schema import FilterConfig
from medtune.data.examples import Turn

LETTERS = re.compile(r"[^\W\d_]+")
LANGUAGES = {
    "zh": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"),
    "en": re.compile("[A-Za-z\u00c0-\u024f]+"),
}
LONGEST_UNIT = 64
LEAST_UNITS = 3
LEAST_REPETITION = 8


def rejection(turns: Iterable[Turn], filter: FilterConfig) -> str | None:
    """Why ``data.filter`` leaves an example out: the name of the key that it breaks; None keeps it."""
    texts = [turn.text for turn in turns]
    length = sum(map(len, texts))
    if filter.min_chars is not None and length < filter.min_chars:
        return "min_chars"
    if filter.max_chars is not None and length > filter.max_chars:
        return "max_chars"
    content = "\n".join(texts)
    if filter.min_language_share is not None:
        share = language_share(content, filter.language)
        if share < filter.min_language_share:
            return "min_language_share"
    if filter.max_repeated_share is not None and repeated_share(content) > filter.max_repeated_share:
        return "max_repeated_share"
    if filter.match is not None and re.search(filter.match, content) is None:
        return "match"
    if filter.exclude is not None and re.search(filter.exclude, content) is not None:
        return "exclude"
    return None


def language_share(text: str, language: str) -> float:
    """Letters of ``language`` (``zh``: Han characters, ``en``: Latin letters) among all; 0 without any."""
    letters = sum(map(len, LETTERS.findall(text)))
    return sum(map(len, LANGUAGES[language].findall(text))) / letters if letters else 0.0


def repeated_share(text: str) -> float:
    """The share of characters that repeat what directly precedes them.

    A stretch counts when it says a unit of 1 to 64 characters at least three times in a row and is eight
    characters long or more; all of it but the first unit is counted. So a sentence that is said five times
    running has a share of four fifths, while doubled words (慢慢), laughter (哈哈哈), round numbers and an
    ellipsis have none.
    """
    letters = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    repeats = np.zeros(len(letters), dtype=bool)
    for unit in range(1, min(LONGEST_UNIT, len(letters) // LEAST_UNITS) + 1):
        as_before = letters[unit:] == letters[:-unit]
        least = max((LEAST_UNITS - 1) * unit, LEAST_REPETITION - unit)
        if np.count_nonzero(as_before) < least:  # nearly always: it costs a microsecond, what follows ten
            continue
        edges = np.flatnonzero(np.diff(as_before, prepend=False, append=False))
        for start, end in edges.reshape(-1, 2)[edges[1::2] - edges[::2] >= least]:
            repeats[start + unit : end + unit] = True
    return float(repeats.mean()) if len(repeats) else 0.0
