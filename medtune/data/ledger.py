"""The ledger: what became of every record and token, in sums that close."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.data.fates import Fate
from medtune.data.parts import Part, offsets_of
from medtune.data.rows.split import PackedSplit

HISTOGRAM_BINS = 24
PERCENTILES = {"min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}


def split_ledger(split: PackedSplit) -> dict[str, Any]:
    """Counts of a split: of each source, and of the rows of its first epoch.

    Of each source: records read = dropped by each cause + kept; tokens = dropped by each cause + cut +
    kept. Records that a filter or an error left out were never tokenised. Of the rows: room = tokens +
    padding; the tokens are those that the mix drew.
    """
    draw, rows = split.draw_of(0), split.rows_of(0)
    sources = {}
    for number, part in enumerate(split.parts):
        sources[part.name] = {
            **source_ledger(split, part, number),
            "mix": {
                "wanted": round(float(draw.wanted[number]), 5),
                "realised": round(float(draw.realised[number]), 5),
                "passes": round(float(draw.passes[number]), 4),
                "documents": int(draw.documents[number]),
                "tokens": int(draw.tokens[number]),
                "learned_tokens": int(draw.learned[number]),
            },
        }
    tokens, room = int(rows.lengths.sum()), len(rows) * split.sequence_length
    return {
        "sources": sources,
        "rows": {
            "count": len(rows),
            "sequence_length": split.sequence_length,
            "room": room,
            "tokens": tokens,
            "padding": room - tokens,
            "utilisation": round(rows.utilisation(split.sequence_length), 5),
            "learned_tokens": int(split.learned_of(0).sum()),
            "fill_histogram": histogram(rows.lengths, split.sequence_length),
        },
        "every_epoch_the_same": split.is_constant,
    }


def source_ledger(split: PackedSplit, part: Part, number: int) -> dict[str, Any]:
    """Counts of one source in a split."""
    store, lengths = part.store, part.store.lengths
    documents = np.bincount(part.fates, minlength=len(Fate))
    tokens = np.bincount(part.fates, weights=lengths, minlength=len(Fate)).astype(np.int64)
    causes = {fate.name.lower(): fate for fate in Fate if fate != Fate.KEPT}
    pieces = split.pieces
    first, last = offsets_of(split.parts)[number : number + 2]
    own = (pieces.document >= first) & (pieces.document < last)
    kept_tokens = int((pieces.end - pieces.start)[own].sum())
    return {
        "split": part.split,
        "files": list(store.files),
        "cache": store.folder.name,
        "encoder": store.meta["encoder"],
        "learned": "responses" if part.objective == "sft" else "every token",
        "documents": {
            "read": int(store.meta["records"]),
            "dropped": {
                **{cause: int(count) for cause, count in store.meta["dropped"].items()},
                **{cause: int(documents[fate]) for cause, fate in causes.items() if documents[fate]},
            },
            "kept": int(documents[Fate.KEPT]),
        },
        "tokens": {
            "read": int(lengths.sum()),
            "dropped": {cause: int(tokens[fate]) for cause, fate in causes.items() if documents[fate]},
            "cut": int(tokens[Fate.KEPT]) - kept_tokens,
            "kept": kept_tokens,
        },
        "overlong": int((lengths > split.sequence_length).sum()),
        "with_eos": int(store.meta["ends_with_eos"]),
        "repeated_sample_ids": repeated(store.samples),
        "length_quantiles": quantiles(lengths),
        "length_histogram": histogram(lengths, int(lengths.max())) if len(lengths) else {},
    }


def repeated(samples: NDArray[np.uint64]) -> int:
    """Documents whose sample id an earlier one has; those without an id are not counted."""
    named = samples[samples != 0]
    return len(named) - len(np.unique(named))


def quantiles(lengths: NDArray[np.int64]) -> dict[str, int]:
    """Lengths at the usual percentiles, in tokens."""
    if not len(lengths):
        return dict.fromkeys(PERCENTILES, 0)
    return {name: int(np.percentile(lengths, point)) for name, point in PERCENTILES.items()}


def histogram(values: NDArray[np.int64], top: int) -> dict[str, list[int]]:
    """Counts of ``values`` between equally spaced edges from 0 to ``top``."""
    edges = np.unique(np.linspace(0, max(1, top), HISTOGRAM_BINS + 1).round().astype(np.int64))
    counts, _ = np.histogram(values, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def check_closes(ledger: Mapping[str, Any]) -> None:
    """Makes sure that every sum of a split's ledger closes; one that does not is a bug of ours."""
    for name, source in ledger["sources"].items():
        for what in ("documents", "tokens"):
            sums = source[what]
            out = sum(sums["dropped"].values()) + sums.get("cut", 0)
            assert sums["read"] == out + sums["kept"], f"{name}: the {what} do not add up: {sums}"
    rows = ledger["rows"]
    assert rows["room"] == rows["tokens"] + rows["padding"], f"the rows do not add up: {rows}"
    drawn = [source["mix"] for source in ledger["sources"].values()]
    for key in ("tokens", "learned_tokens"):
        assert rows[key] == sum(mix[key] for mix in drawn), f"{key} of the rows and of the mix differ"
