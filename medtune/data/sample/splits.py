"""Which records go to which file, and the files themselves.

A record is placed by the hash of its core (the query, the pair, the raw term, the sentence or the dialogue:
the input without prompt, choices and opener), so the same core can never be in two splits, whatever the seed
and however many records are generated. The generator checks train against the others again as it writes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from hashlib import blake2b, sha256
from io import BufferedWriter
from pathlib import Path
from random import Random
from typing import IO, NamedTuple, cast

from medtune.data.sample import wording
from medtune.data.sample.lexicon import Lexicon, split_lexicon
from medtune.data.sample.tasks import TASKS, Draft, Lengths, Setting, Task, fill_frame

NUM_BUCKETS = 20
TEST_BUCKET, DEV_BUCKET, LONG_BUCKET = 0, 1, 2  # the other seventeen are train's

CORPUS_TRAIN_DOCUMENTS, CORPUS_VALIDATION_DOCUMENTS = 1500, 100


class Split(NamedTuple):
    """An evaluation split: which cores and words it holds, and how many records of each task."""

    name: str
    bucket: int
    records_per_task: int
    has_new_words: bool = False
    lengths: Lengths | None = None  # None: as the training records


EVALUATION_SPLITS = (
    Split("dev", DEV_BUCKET, 40),
    Split("test", TEST_BUCKET, 48),
    Split("test_new_words", TEST_BUCKET, 30, has_new_words=True),
    Split("test_long", LONG_BUCKET, 10, lengths=Lengths.PROMPTCBLUE),
)


class Written(NamedTuple):
    """What the card says of a file. ``digest`` is the SHA-256 of its uncompressed content."""

    name: str
    num_records: int
    num_bytes: int
    digest: str


def core_hash(task: Task, core: str) -> int:
    """A 64-bit name for a core, the same on every machine and for every seed."""
    return int.from_bytes(blake2b(f"{task.task_dataset}\n{core}".encode(), digest_size=8).digest(), "big")


def holds_new_word(text: str) -> bool:
    """Whether a new word stands in ``text``, be it by chance: one word's end and the next one's beginning."""
    return any(word in text for word in _new_words())


def generate_records(split: Split, seed: int, lengths: Lengths) -> Iterator[tuple[int, dict[str, object]]]:
    """An evaluation split's records with their core's hash. No core comes twice."""
    lexicon = split_lexicon()[1 if split.has_new_words else 0]
    setting = Setting(Random(f"{split.name}/{seed}"), lexicon, split.lengths or lengths)
    seen: set[int] = set()
    for index in range(split.records_per_task * len(TASKS)):
        task = TASKS[index % len(TASKS)]
        while True:
            draft = task.write(setting)
            name = core_hash(task, draft.core)
            if name % NUM_BUCKETS != split.bucket or name in seen:
                continue
            if split.has_new_words or not holds_new_word(draft.input):
                break
        seen.add(name)
        # The official scripts know the prefixes train-, dev- and test- only.
        prefix = split.name.split("_")[0]
        yield name, _as_record(draft, task, f"{prefix}-{index}")


def generate_train_records(
    num_records: int, seed: int, lengths: Lengths, reserved: set[int] | frozenset[int] = frozenset()
) -> Iterator[dict[str, object]]:
    """Training records, the tasks in rotation. A core may come back in another prompt.

    Raises:
        RuntimeError: A core is one of ``reserved``, the hashes of the evaluation splits' cores.
    """
    setting = Setting(Random(f"train/{seed}"), split_lexicon()[0], lengths)
    for index in range(num_records):
        task = TASKS[index % len(TASKS)]
        while True:
            draft = task.write(setting)
            name = core_hash(task, draft.core)
            if name % NUM_BUCKETS > LONG_BUCKET and not holds_new_word(draft.input):
                break
        if name in reserved:
            raise RuntimeError(f"{task.task_dataset} core of train is in another split: {draft.core!r}")
        yield _as_record(draft, task, f"train-{index}")


def generate_documents(name: str, num_documents: int, seed: int) -> Iterator[str]:
    """Plain paragraphs about one disease each; training and validation share no paragraph."""
    rng = Random(f"{name}/{seed}")
    lexicon = split_lexicon()[0]
    seen: set[str] = set()
    while len(seen) < num_documents:
        text = _write_document(rng, lexicon)
        is_validation = blake2b(text.encode(), digest_size=1).digest()[0] % NUM_BUCKETS == 0
        if is_validation != (name == "corpus_validation") or text in seen or holds_new_word(text):
            continue
        seen.add(text)
        yield text


def write_sample(
    folder: Path, num_records: int, seed: int, lengths: Lengths, compress: bool
) -> list[Written]:
    """Writes every file of the sample into ``folder`` and says what was written.

    Records go to disk as they are made, so memory does not grow with ``num_records``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reserved: set[int] = set()
    written: list[Written] = []

    def evaluation_lines(split: Split) -> Iterator[str]:
        for name, record in generate_records(split, seed, lengths):
            reserved.add(name)
            yield _as_line(record)

    evaluation = [
        _write_lines(folder / f"{split.name}.json", evaluation_lines(split)) for split in EVALUATION_SPLITS
    ]
    train = map(_as_line, generate_train_records(num_records, seed, lengths, reserved))
    written.append(_write_lines(folder / ("train.json.gz" if compress else "train.json"), train))
    written += evaluation
    for name, num_documents in (
        ("corpus_train", CORPUS_TRAIN_DOCUMENTS),
        ("corpus_validation", CORPUS_VALIDATION_DOCUMENTS),
    ):
        documents = (text + "\n" for text in generate_documents(name, num_documents, seed))
        written.append(_write_lines(folder / f"{name}.txt", documents))
    return written


@cache
def _new_words() -> list[str]:
    return split_lexicon()[1].all_words()


def _as_record(draft: Draft, task: Task, sample_id: str) -> dict[str, object]:
    return {
        "input": draft.input,
        "target": draft.target,
        "answer_choices": draft.answer_choices,
        "task_type": task.task_type,
        "task_dataset": task.task_dataset,
        "sample_id": sample_id,
    }


def _as_line(record: dict[str, object]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _write_document(rng: Random, lexicon: Lexicon) -> str:
    frames = list(wording.DOCUMENT_SENTENCES)
    rng.shuffle(frames)
    return "".join(fill_frame(rng, lexicon, frame)[0] for frame in frames[: 3 + int(rng.random() * 4)])


def _write_lines(path: Path, lines: Iterator[str]) -> Written:
    num_records = num_bytes = 0
    digest = sha256()
    with ExitStack() as stack:
        file: IO[bytes] = stack.enter_context(path.open("wb"))
        if path.suffix == ".gz":
            # No name and no time in the header, or two runs would differ.
            packed = gzip.GzipFile("", "wb", compresslevel=9, fileobj=cast(BufferedWriter, file), mtime=0)
            file = cast(IO[bytes], stack.enter_context(packed))
        for line in lines:
            encoded = line.encode()
            file.write(encoded)
            digest.update(encoded)
            num_records += 1
            num_bytes += len(encoded)
    return Written(path.name, num_records, num_bytes, digest.hexdigest())
