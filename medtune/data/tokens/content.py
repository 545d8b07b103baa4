"""Fingerprints of what a record says, whatever template is put around it."""

import hashlib
import unicodedata
from collections.abc import Iterable

from medtune.data.examples import Turn

# The compatibility forms that Chinese text is full of, unified first: NFKC of a text that needs none of its
# rules is five times as fast, and comes to the same.
FULL_WIDTH = [(mark, unicodedata.normalize("NFKC", mark)) for mark in "，：；？！（）"]


def normalised(text: str) -> str:
    """``text`` as duplicates are told by: compatibility forms unified, lower case, no white space."""
    for mark, plain in FULL_WIDTH:
        text = text.replace(mark, plain)
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_of(turns: Iterable[Turn]) -> str:
    """The normalised words of all turns but the system prompt, joined by a line break."""
    return "\n".join(normalised(turn.text) for turn in turns if turn.role != "system")


def prompt_of(turns: Iterable[Turn]) -> str:
    """The normalised words of what is asked; of a document, all of it."""
    return "\n".join(normalised(turn.text) for turn in turns if turn.role in ("prompt", "text"))


def fingerprint(text: str) -> bytes:
    """16 bytes that tell texts apart: two of 10**9 texts collide with a probability below 10**-20."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
