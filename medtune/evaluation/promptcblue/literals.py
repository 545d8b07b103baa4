"""Reads the Python literals that Text2DT answers carry, without ever running them."""

from __future__ import annotations

import ast
import json
import warnings
from typing import Any

# A syntax tree costs some hundred bytes per character; official nodes are shorter than 2,000 characters.
MAX_LITERAL_CHARS = 100_000


def read_literal(text: str) -> Any:
    """Returns the value of a literal of strings, numbers, lists, tuples, sets and dicts.

    The official parser runs ``eval``; for literals the two agree. Code (calls, names, arithmetic) is refused
    here, and so is a literal beyond ``MAX_LITERAL_CHARS``.

    Raises:
        ValueError: The text is no literal, is too long or is nested too deep.
    """
    if len(text) > MAX_LITERAL_CHARS:
        raise ValueError(f"a literal of {len(text)} characters; at most {MAX_LITERAL_CHARS} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" in generated text is no news to anybody
            return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"no literal: {type(error).__name__}") from error


def read_triples(text: str) -> list[Any]:
    """Returns a list literal's elements of length three, as they come back from the official results.json.

    An unreadable literal, one that is no list, and one with an element that has no length give no triples.

    Raises:
        TypeError: A triple holds what JSON cannot (a set, bytes).
        UnicodeEncodeError: A triple holds half a surrogate pair.
    """
    try:
        value = read_literal(text)
        triples = [item for item in value if len(item) == 3] if isinstance(value, list) else []
    except (ValueError, TypeError):
        return []
    written = json.dumps(triples, ensure_ascii=False)
    written.encode()
    back: list[Any] = json.loads(written)
    return back
