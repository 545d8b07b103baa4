"""Which examples are left out for what their text is: bounds, language, repetition, expressions."""

import re
from collections.abc import Iterable

from medtune.config.schema import FilterConfig
from medtune.data.examples import Turn

LETTERS = re.compile(r"[^\W\d_]+")
LANGUAGES = {
    "zh": re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"),
    "en": re.compile("[A-Za-z\u00c0-\u024f]+"),
}
# A unit of up to 64 characters and what repeats it directly, at least twice.
REPEATED = re.compile(r"(.{1,64}?)(\1{2,})", re.DOTALL)


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

    A stretch counts when a unit of 1 to 64 characters follows itself at least twice more; all but its
    first occurrence are counted. So ``慢慢`` and ``1000`` are no repetition worth counting but ``好好好好`` is
    one of three characters, and a sentence said five times in a row is one of four fifths.
    """
    return sum(len(found[2]) for found in REPEATED.finditer(text)) / max(len(text), 1)
