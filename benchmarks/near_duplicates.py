"""Near-duplicate removal: 100,000 records of PromptCBLUE's lengths, among them copies of known similarity.

The copies have characters replaced, inserted and removed anywhere, template and labels included; how similar
each is to its original is computed from the definition.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import FOLDER, Figure, measure_python, run_child

MODULE = "benchmarks.near_duplicates"
NUM_RECORDS = 100_000
NUM_COPIES = 5_000
THRESHOLD = 0.7
EDITS_PER_CHARACTER = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06)
NOT_PLANTED = -1


def figures() -> list[Figure]:
    """The figures and their budgets."""
    folder = FOLDER / "near_duplicates"
    # In a process of its own: a child's peak memory begins with its parent's.
    run_child(MODULE, "generate", str(folder))
    with tempfile.TemporaryDirectory() as cache:
        found = run_child(MODULE, "search", str(folder), cache)
    return [
        Figure(
            f"near duplicates of {NUM_RECORDS:,} records, normalising included", found["cpu_s"], "CPU-s", 12
        ),
        Figure("  peak memory beyond imports", found["peak_mb"], "MB"),
        Figure(f"  recall of copies at Jaccard >= {THRESHOLD}", found["recall"], "", 0.93, "higher"),
        Figure("  precision, by the definition", found["precision"], "", 0.99, "higher"),
        Figure("  copies less similar than that, dropped", found["wrong_copies"], ""),
        Figure("  generated records that are near duplicates", found["generated"], ""),
    ]


def generate(name: str) -> dict[str, float]:
    """Writes the records, no two of equal content, the copies last, unless they are there."""
    folder = Path(name)
    if (folder / "records.jsonl").is_file():
        return {}
    with tempfile.TemporaryDirectory() as place:
        arguments = ["--records", str(NUM_RECORDS + 5_000), "--lengths", "promptcblue", "--out", place]
        usage = measure_python("-m", "medtune.data.sample", *arguments)
        if usage.returncode:
            raise RuntimeError(usage.output)
        originals = [*distinct(Path(place) / "train.json")][: NUM_RECORDS - NUM_COPIES]
    rows = [(text, NOT_PLANTED) for text in originals] + copies_of(originals)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text, "original": original}) + "\n" for text, original in rows]
    (folder / "records.tmp").write_text("".join(lines), encoding="utf-8")
    (folder / "records.tmp").replace(folder / "records.jsonl")
    return {"records": len(rows)}


def distinct(path: Path) -> Iterator[str]:
    """Prompt and response of records with a content that did not come before."""
    from medtune.data.tokens.content import normalised

    seen = set()
    with path.open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            text = f"{record['input']}\n{record['target']}"
            if (content := normalised(text)) not in seen:
                seen.add(content)
                yield text


def copies_of(originals: list[str]) -> list[tuple[str, int]]:
    """(text, number of its original) of the planted copies."""
    rng = random.Random(0)
    characters = sorted(set("".join(originals[:2000])) - set(" \n"))
    chosen = rng.sample(range(len(originals)), NUM_COPIES)
    return [(edited(rng, originals[number], characters), number) for number in chosen]


def edited(rng: random.Random, text: str, characters: list[str]) -> str:
    """``text`` with some edits, at least one."""
    copy = list(text)
    for _ in range(max(1, round(rng.choice(EDITS_PER_CHARACTER) * len(copy)))):
        place, kind = rng.randrange(len(copy)), rng.choice(("replace", "replace", "insert", "remove"))
        copy[place : place + (kind != "insert")] = [] if kind == "remove" else rng.choices(characters)
    return "".join(copy)


def contents(folder: str, normalise: bool = True) -> Iterator[str]:
    """The normalised texts, read as they are needed."""
    from medtune.data.tokens.content import normalised

    with (Path(folder) / "records.jsonl").open(encoding="utf-8") as file:
        for line in file:
            text = json.loads(line)["text"]
            yield normalised(text) if normalise else text


def search(folder: str, cache: str) -> dict[str, float]:
    """CPU-seconds without those of reading, memory, and how good what was found is."""
    from benchmarks.bench_data import peak_mb
    from medtune.data.duplicates.near import find_near_duplicates

    started = time.process_time()
    for _ in contents(folder, normalise=False):
        pass
    reading, before = time.process_time() - started, peak_mb()
    started = time.process_time()
    found = find_near_duplicates(
        contents(folder), [NUM_RECORDS], [], THRESHOLD, removes_contaminated=False, folder=Path(cache)
    )
    cpu_s, after = time.process_time() - started - reading, peak_mb()
    first, second = found.dropped.first.tolist(), found.dropped.second.tolist()
    return {
        "cpu_s": cpu_s,
        "peak_mb": after - before,
        **quality(folder, dict(zip(second, first, strict=True))),
    }


def quality(folder: str, dropped: dict[int, int]) -> dict[str, float]:
    """Recall and precision against similarities computed from the definition.

    A copy whose original was dropped itself need not be similar to what stays, and is not counted.
    """
    texts = [*contents(folder)]
    with (Path(folder) / "records.jsonl").open(encoding="utf-8") as file:
        originals = [json.loads(line)["original"] for line in file]
    counted = {
        copy: jaccard(texts[copy], texts[original])
        for copy, original in enumerate(originals)
        if original != NOT_PLANTED and original not in dropped
    }
    due = [copy for copy, similarity in counted.items() if similarity >= THRESHOLD]
    right = [jaccard(texts[copy], texts[kept]) >= THRESHOLD for copy, kept in dropped.items()]
    return {
        "recall": sum(copy in dropped for copy in due) / len(due),
        "precision": sum(right) / len(right),
        "wrong_copies": sum(
            copy in dropped and dropped[copy] == originals[copy]
            for copy, similarity in counted.items()
            if similarity < THRESHOLD
        ),
        "generated": sum(originals[copy] == NOT_PLANTED for copy in dropped),
    }


def jaccard(first: str, second: str) -> float:
    """Similarity of the sets of character 5-grams."""
    ours, theirs = grams(first), grams(second)
    return len(ours & theirs) / len(ours | theirs)


def grams(text: str) -> set[str]:
    return {text[start : start + 5] for start in range(max(1, len(text) - 4))}


CHILDREN = {"generate": generate, "search": search}

if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(CHILDREN[sys.argv[1]](*sys.argv[2:])))
    else:
        from benchmarks.report import report

        report("near_duplicates", figures())
