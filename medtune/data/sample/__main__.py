"""``python -m medtune.data.sample``: writes the sample."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from medtune.data.sample.card import render_card
from medtune.data.sample.splits import write_sample
from medtune.data.sample.tasks import Lengths


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes train, dev and the test splits, a small corpus and a card, and lists the files."""
    parser = argparse.ArgumentParser(prog="python -m medtune.data.sample", description=main.__doc__)
    parser.add_argument(
        "--records", type=_count, required=True, metavar="N", help="training records to write"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default: 0)")
    parser.add_argument(
        "--lengths",
        choices=[lengths.value for lengths in Lengths],
        default=Lengths.SHORT.value,
        help="inputs learnable in minutes, or as long as the benchmark's (default: short)",
    )
    parser.add_argument("--gzip", action="store_true", help="write train.json.gz instead of train.json")
    options = parser.parse_args(arguments)
    lengths = Lengths(options.lengths)
    written = write_sample(options.out, options.records, options.seed, lengths, options.gzip)
    card = render_card(written, options.records, options.seed, lengths, options.gzip)
    (options.out / "README.md").write_text(card, encoding="utf-8")
    for file in written:
        print(f"{options.out / file.name}: {file.num_records} records")


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{count} is negative; give 0 or more")
    return count


if __name__ == "__main__":
    main()
