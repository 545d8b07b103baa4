"""Data sets of the hub, or folders in its layout, read by the datasets library; no remote code is run."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from medtune.config.schema import SourceConfig
from medtune.data.reading.files import files_digest

COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_name(source: SourceConfig, split: str) -> str:
    """What stands in a file's place in messages: ``hub:owner/name/split``."""
    return f"hub:{source.hub}/{hub_split(source, split)}"


def hub_split(source: SourceConfig, split: str) -> str:
    """The hub's name of a split; where ``data.splits`` is empty, the split's own."""
    return source.splits[split] if source.splits else split


def hub_records(source: SourceConfig, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number from 1, record) of a split, downloaded first or, with ``data.streaming``, as it arrives.

    Raises:
        ValueError: It is not there, or cannot be read any further; says how to get it.
    """
    # Imported here: half a CPU-second that only hub data sets cost.
    import datasets

    number = 0
    with named_trouble(source, split, lambda: number):
        rows = datasets.load_dataset(
            source.hub,
            source.subset,
            data_dir=source.folder,
            split=hub_split(source, split),
            revision=source.revision,
            streaming=source.streaming,
        )
        for row in rows:
            number += 1
            yield number, row
    if not number:
        raise ValueError(f"{hub_name(source, split)}: the split is empty")


@contextmanager
def named_trouble(source: SourceConfig, split: str, count: Callable[[], int]) -> Iterator[None]:
    """Turns what the datasets library raises into a ValueError that says what to do."""
    import datasets
    import pyarrow as pa
    from huggingface_hub.errors import HfHubHTTPError

    network = (
        HfHubHTTPError.__bases__
    )  # the base of all errors of whichever HTTP client the hub's library uses
    data = (datasets.exceptions.DatasetsError, pa.ArrowException, ValueError, TypeError, KeyError)
    name = hub_name(source, split)
    try:
        yield
    except (*network, *data, OSError, RuntimeError) as error:
        reason = reason_of(error)
        if count():
            raise ValueError(f"{name}: cannot be read after record {count()}: {reason}") from error
        raise ValueError(f"{name}: {reason}; {advice(source, split, reason)}") from error


def reason_of(error: BaseException) -> str:
    """What an error of the datasets library says on one line, with what it was raised from."""
    words = " ".join(str(error).split())[:300] or type(error).__name__
    is_wrapped = error.__cause__ is not None and "generating" in words
    return f"{words}: {reason_of(error.__cause__)}" if is_wrapped and error.__cause__ else words


def advice(source: SourceConfig, split: str, reason: str) -> str:
    """What to do about a data set that cannot be loaded."""
    lower = reason.lower()
    if "dataset script" in lower:
        return (
            "a data set script is remote code and never run: convert its data to files, and name them with "
            "data.hub=null data.dir=FOLDER data.splits.train=FILE"
        )
    if "unknown split" in lower or "bad split" in lower:
        return f"name another with data.splits.{split}, now {hub_split(source, split)!r}"
    if "builderconfig" in lower or "config name" in lower:
        return f"name another with data.subset, now {source.subset or 'null'}"
    if "generating" in lower:
        return "repair its files; all of a split must have the same columns"
    if source.hub and Path(source.hub).exists():
        return "the folder must hold files such as train.jsonl or data/train-00000-of-00001.parquet"
    if "gated" in lower or "private" in lower or "401" in lower or "403" in lower:
        return (
            "accept its terms on its page and log in with `hf auth login`, or get its files another way and "
            "set data.hub=null data.dir=FOLDER data.splits.train=FILE"
        )
    return (
        "on a machine with a network, fetch it with "
        f"`hf download --repo-type dataset {source.hub} --local-dir FOLDER`, then set data.hub=FOLDER here, "
        "or data.hub=null data.dir=FOLDER data.splits.train=FILE"
    )


def hub_digest(source: SourceConfig, split: str) -> str:
    """A fingerprint of a split's content: of a local folder's files, or of the commit that the hub has.

    A ``revision`` that is a whole commit is taken at its word, without asking the hub.

    Raises:
        ValueError: As :func:`hub_records`.
    """
    parts = {"split": hub_split(source, split), "subset": source.subset, "folder": source.folder}
    folder = Path(source.hub or "")
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file() and is_visible(path, folder))
        parts["content"] = files_digest(files)
        parts["files"] = " ".join(str(path.relative_to(folder)) for path in files)
    elif COMMIT.fullmatch(source.revision or ""):
        parts["content"] = f"{source.hub}@{source.revision}"
    else:
        parts["content"] = f"{source.hub}@{builder_hash(source, split)}"
    return xxhash.xxh3_128(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_visible(path: Path, folder: Path) -> bool:
    """Whether no part of a path below ``folder`` is hidden; caches and locks of the hub's own tools are."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def builder_hash(source: SourceConfig, split: str) -> str:
    """What the datasets library tells versions of a data set by: the commit is part of it."""
    import datasets

    with named_trouble(source, split, lambda: 0):
        builder = datasets.load_dataset_builder(
            source.hub, source.subset, data_dir=source.folder, revision=source.revision
        )
    return f"{builder.hash}/{builder.info.version}"
