"""The ledger against a count of its own: every rule applied by hand, and the batches summed."""

import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from medtune.config.schema import DataConfig
from medtune.data.fates import Fate
from medtune.data.ledger import check_closes, histogram, quantiles, repeated, split_ledger
from medtune.data.rows.collate import Collator
from medtune.data.rows.split import IGNORE_INDEX, PackedSplit
from tests.unit.data.made_corpora import (
    FORMATS,
    Talk,
    ask,
    config_of,
    corpus_of,
    made_source,
    number_of,
)
from tests.unit.data.made_parts import make_part, plain

BROKEN = ('{"x" 1}', "7", "{}")
SHORTEST_ROW = 9  # holds the longest response, seven tokens with its EOS, and a token of the prompt
responses = st.text("efgh", min_size=1, max_size=6)


@st.composite
def talks(draw, format):
    """What a record of the format can say; texts and prompts may be longer than a row."""
    long = st.text("abcd", min_size=1, max_size=40)
    if format == "text":
        return Talk(text=draw(long))
    can_be_long = format in ("alpaca", "messages")
    turns = draw(st.lists(st.tuples(long, responses), min_size=1, max_size=3 if can_be_long else 1))
    return Talk(tuple(turns), system=draw(st.just("") | responses) if can_be_long else "")


@st.composite
def sources(draw, name, is_alone, run):
    """A source's settings, with the lines of its files under ``lines``."""
    format = draw(st.sampled_from(FORMATS))
    is_whole = format == "text" or run == "pretrain"
    own = None
    if not is_alone and run != "pretrain":
        own = draw(st.sampled_from([None, "pretrain"] if format == "text" else [None, "sft", "pretrain"]))
        is_whole = is_whole or own == "pretrain"
    rules = ["drop", *(["split"] if is_whole else []), *(["truncate"] if format != "text" else [])]
    train = draw(st.lists(talks(format), min_size=1, max_size=14))
    train += draw(st.lists(st.sampled_from([*train, *BROKEN]), max_size=5))
    lines = {"train": draw(st.permutations(train))}
    sizes = st.sampled_from([None, None, 0.2, 0.5, 1.0, 3.0])
    if draw(st.booleans()):
        lines["validation"] = draw(st.lists(talks(format) | st.sampled_from(train), min_size=1, max_size=5))
        sizes = st.none()
    return {
        "name": name,
        "format": format,
        "lines": lines,
        "objective": own,
        "validation_size": draw(sizes),
        "overlong": draw(st.sampled_from(rules)),
        "min_chars": draw(st.none() | st.integers(2, 8)),
        "max_tokens": draw(st.none() | st.integers(5, 200)),
        "max_examples": draw(st.none() | st.integers(3, 12)),
        "weight": draw(st.floats(0.3, 3)),
    }


@st.composite
def runs(draw):
    """(sources, the settings of ``config_of``)."""
    packing = draw(st.sampled_from(["bfd", "none", "concat"]))
    # Alone a text has to be learned whole; in a mix it is.
    objective = "pretrain" if packing == "concat" else draw(st.sampled_from(["sft", "pretrain"]))
    count = draw(st.integers(1, 3))
    made = [draw(sources("abc"[number], count == 1, objective)) for number in range(count)]
    if count == 1 and made[0]["format"] == "text":
        objective = "pretrain"
    if draw(st.booleans()):
        made = [{**source, "weight": None} for source in made]
    return made, {
        "objective": objective,
        "packing": packing,
        "pack_groups": draw(st.sampled_from(["none", "turns", "source"])),
        "sequence_length": draw(st.integers(SHORTEST_ROW, 60)),
        "dedup": draw(st.sampled_from(["none", "exact"])),
        "contamination": draw(st.sampled_from(["report", "remove"])),
        "seed": draw(st.integers(0, 3)),
        **({"mix_by": draw(st.sampled_from(["tokens", "examples", "epochs"]))} if count > 1 else {}),
    }


@dataclass
class Count:
    """What became of the lines of one source in one split.

    Attributes:
        talks: Of the lines that become documents.
        fates: What became of each of them.
        dropped: Lines that become none, by cause.
    """

    talks: list[Talk]
    fates: list[str]
    dropped: Counter = field(default_factory=Counter)

    @classmethod
    def of(cls, source, split):
        count = cls([], [])
        for line in source["lines"][split][: source["max_examples"]]:
            if isinstance(line, str):
                count.dropped["error"] += 1
            elif source["min_chars"] and characters(line) < source["min_chars"]:
                count.dropped["min_chars"] += 1
            else:
                count.talks.append(line)
        count.fates = ["kept"] * len(count.talks)
        return count

    def move(self, chosen, fate):
        """Gives those of the kept documents that are chosen another fate."""
        for index in self.kept:
            if chosen(index):
                self.fates[index] = fate

    @property
    def kept(self):
        return [index for index, fate in enumerate(self.fates) if fate == "kept"]


def characters(talk):
    return len(talk.text + talk.system) + sum(len(prompt + response) for prompt, response in talk.turns)


def held_out(source, count):
    """Whether each document is held out."""
    size, numbers = source["validation_size"] or 0, [number_of(talk.prompt) for talk in count.talks]
    if size < 1 or not numbers:
        return [number < size * 2**64 for number in numbers]
    return [number <= sorted(numbers)[min(int(size), len(numbers)) - 1] for number in numbers]


def counts_of(made, run):
    """The fates of both splits, but for ``max_tokens``: {split: {source: Count}}."""
    train, validation = {}, {}
    for source in made:
        train[source["name"]] = count = Count.of(source, "train")
        held = held_out(source, count)
        if "validation" in source["lines"]:
            validation[source["name"]] = Count.of(source, "validation")
        elif any(held):
            fates = ["kept" if is_held else "train" for is_held in held]
            validation[source["name"]] = Count(count.talks, fates, count.dropped)
        count.move(held.__getitem__, "validation")
    known = {words(count.talks[index]) for count in validation.values() for index in count.kept}
    for split in (train, validation):
        for source in made:
            if source["name"] in split and source["overlong"] == "drop" and run["packing"] != "concat":
                count = split[source["name"]]
                lengths = [len(talk.tokens) for talk in count.talks]
                count.move(lambda at: lengths[at] > run["sequence_length"], "overlong")  # noqa: B023
    if run["contamination"] == "remove":
        contents, prompts = ({pair[side] for pair in known} for side in (0, 1))
        for count in train.values():
            said = [words(talk) for talk in count.talks]
            count.move(lambda at: said[at][0] in contents or said[at][1] in prompts, "contaminated")  # noqa: B023
    if run["dedup"] == "exact":
        seen = set()
        for count in train.values():
            for index in count.kept:
                content = count.talks[index].content
                count.fates[index] = "duplicate" if content in seen else "kept"
                seen.add(content)
    return {"train": train, "validation": validation} if validation else {"train": train}


def words(talk):
    return talk.content, talk.prompt


def first_token(talk, source, run):
    """Where what is used of a document begins: a prompt is cut, a response stays whole or goes."""
    start = max(0, len(talk.tokens) - run["sequence_length"])
    if run["packing"] == "concat" or source["overlong"] != "truncate":
        return 0
    while start and talk.tokens[start]:
        start += 1
    return start


def learned_tokens(talk, source, run):
    """Learned tokens of a document that is kept and not cut by ``concat``."""
    start, length = first_token(talk, source, run), len(talk.tokens)
    if is_masked(source, run):
        return sum(talk.tokens[start + 1 :])
    pieces = -(-length // run["sequence_length"]) if source["overlong"] == "split" else 1
    return length - start - pieces


def is_masked(source, run):
    return source["format"] != "text" and (source["objective"] or run["objective"]) == "sft"


def batch_sums(split):
    """By source: tokens, learned tokens and pieces in the batches of the first epoch; and the rows."""
    collate, rows = Collator(split, 0), len(split.rows_of(0))
    sums = {name: Counter() for name in split.source_names}
    for row in range(rows):
        batch = collate([(0, row, 0)])
        is_learned = batch["labels"] != IGNORE_INDEX
        assert not is_learned[:, 0].any()
        for number, name in enumerate(split.source_names):
            here = batch["source_ids"] == number
            sums[name] += Counter(
                tokens=int((batch["document_ids"] > 0)[here].sum()),
                learned=int((is_learned & here)[:, 1:].sum()),
                pieces=len(batch["document_ids"][here].unique()),
            )
    return sums, rows


def check_source(found, source, count, run):
    """A source's sums against those of its lines."""
    lengths = [len(talk.tokens) for talk in count.talks]
    by_fate, tokens = Counter(count.fates), Counter()
    for fate, length in zip(count.fates, lengths, strict=True):
        tokens[fate] += length
    cut = sum(first_token(count.talks[index], source, run) for index in count.kept)
    kept, all_kept = by_fate.pop("kept"), tokens.pop("kept")
    assert found["documents"] == {
        "read": len(count.talks) + count.dropped.total(),
        "dropped": {**count.dropped, **by_fate},
        "kept": kept,
    }
    assert found["tokens"] == {"read": sum(lengths), "dropped": tokens, "cut": cut, "kept": all_kept - cut}
    assert found["overlong"] == sum(length > run["sequence_length"] for length in lengths)
    assert found["with_eos"] == len(lengths)
    assert found["learned"] == ("responses" if is_masked(source, run) else "every token")
    assert sum(found["length_histogram"].get("counts", [])) == len(lengths)


def check_rows(ledger, split):
    """The rows' sums, and the mix's, against those of the batches."""
    sums, rows = batch_sums(split)
    tokens = sum(of_source["tokens"] for of_source in sums.values())
    room = rows * split.sequence_length
    found = ledger["rows"]
    assert (found["count"], found["room"], found["tokens"], found["padding"]) == (
        rows, room, tokens, room - tokens,
    )  # fmt: skip
    assert found["learned_tokens"] == sum(of_source["learned"] for of_source in sums.values())
    assert found["utilisation"] == round(tokens / room, 5)
    assert sum(found["fill_histogram"]["counts"]) == rows
    for name, source in ledger["sources"].items():
        mix = source["mix"]
        assert (mix["tokens"], mix["learned_tokens"]) == (sums[name]["tokens"], sums[name]["learned"])
    return sums


def check_draw(ledger, sums, made, run):
    """What the mix says that it drew, in the unit of its weights."""
    drawn = {name: source["mix"] for name, source in ledger["sources"].items()}
    unit = "tokens" if run.get("mix_by") in (None, "tokens") else "documents"
    total = sum(mix[unit] for mix in drawn.values())
    for source in made:
        if (mix := drawn.get(source["name"])) is None:
            continue
        if run["packing"] != "concat" and source["overlong"] != "split":
            assert mix["documents"] == sums[source["name"]]["pieces"]
        found = ledger["sources"][source["name"]]
        size = found["tokens" if unit == "tokens" else "documents"]["kept"]
        assert mix["passes"] == round(mix[unit] / size, 4)
        share = mix[unit] / (size if run.get("mix_by") == "epochs" else total)
        assert mix["realised"] == round(share, 5)


def check_whole_epoch(ledger, sums, made, counts, run):
    """An epoch that shows everything once shows what is kept."""
    for source in made:
        if source["name"] not in counts:
            continue
        count, shown = counts[source["name"]], sums[source["name"]]
        mix = ledger["sources"][source["name"]]["mix"]
        assert (mix["passes"], mix["documents"]) == (1, len(count.kept))
        assert shown["tokens"] == ledger["sources"][source["name"]]["tokens"]["kept"]
        if run["packing"] == "concat":
            assert shown["learned"] == shown["tokens"] - shown["pieces"]
        else:
            kept = [count.talks[index] for index in count.kept]
            assert shown["learned"] == sum(learned_tokens(talk, source, run) for talk in kept)


def cap(count, part, source, run):
    """Takes over which documents ``max_tokens`` leaves out, after a look at how many tokens stay."""
    capped = np.flatnonzero(part.fates == Fate.CAPPED).tolist()
    assert {count.fates[index] for index in capped} <= {"kept"}
    sizes = [len(talk.tokens) - first_token(talk, source, run) for talk in count.talks]
    before = sum(sizes[index] for index in count.kept)
    count.move(capped.__contains__, "capped")
    after = sum(sizes[index] for index in count.kept)
    if source["max_tokens"] is None or before <= source["max_tokens"]:
        assert not capped
    elif len(count.kept) > 1:
        assert abs(after - source["max_tokens"]) <= max(sizes) / 2
    assert count.kept


PROBLEMS = re.compile("is left for|leaves nothing|has no document|nothing of .* is learned")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made_run=runs())
def test_the_ledger_is_what_a_count_by_hand_finds(tiny_tokenizer, made_run):
    made, run = made_run
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = config_of(folder, *(written(folder, source) for source in made), **run)
        try:
            corpus = corpus_of(config, tiny_tokenizer)
        except ValueError as error:
            if not PROBLEMS.search(str(error)):
                raise
            reject()
        counts = counts_of(made, run)
        assert set(corpus.splits) == set(counts)
        for split, packed in corpus.splits.items():
            for part in packed.parts:
                source = next(source for source in made if source["name"] == part.name)
                if split == "train":
                    cap(counts[split][part.name], part, source, run)
            ledger = split_ledger(packed)
            check_closes(ledger)
            assert set(ledger["sources"]) == set(counts[split])
            for source in made:
                if source["name"] in counts[split]:
                    found, count = ledger["sources"][source["name"]], counts[split][source["name"]]
                    check_source(found, source, count, run)
            sums = check_rows(ledger, packed)
            if split == "train":
                check_draw(ledger, sums, made, run)
            if split == "validation" or made[0]["weight"] is None or len(made) == 1:
                assert ledger["every_epoch_the_same"]
                check_whole_epoch(ledger, sums, made, counts[split], run)


def written(folder, source):
    """The settings of a source whose files are written."""
    skipped = ("name", "format", "lines", "min_chars")
    given = {key: value for key, value in source.items() if key not in skipped}
    return made_source(
        folder, source["name"], source["format"], source["lines"],
        on_error="skip", filter={"min_chars": source["min_chars"]}, **given,
    )  # fmt: skip


def small_ledger(**data):
    """Two sources whose documents have 10, 5, 4 and 8, 3 tokens, in rows of 12."""
    first = make_part([plain(10, 3), plain(5, 2), plain(4, 2)], "a")
    second = make_part([plain(8, 1), plain(3, 1)], "b", "pretrain")
    first.fates[2] = Fate.DUPLICATE
    first.store.meta["records"] += 4
    first.store.meta["dropped"] |= {"error": 3, "min_chars": 1}
    settings = DataConfig(**{"mix": ["a", "b"], "sequence_length": 12, **data})
    return split_ledger(PackedSplit([first, second], settings, "train", 0, is_train=True))


def test_a_ledger_to_the_token():
    ledger = small_ledger()
    a, b = ledger["sources"]["a"], ledger["sources"]["b"]
    assert a["documents"] == {"read": 7, "dropped": {"error": 3, "min_chars": 1, "duplicate": 1}, "kept": 2}
    assert a["tokens"] == {"read": 19, "dropped": {"duplicate": 4}, "cut": 0, "kept": 15}
    assert b["documents"] == {"read": 2, "dropped": {}, "kept": 2}
    assert b["tokens"] == {"read": 11, "dropped": {}, "cut": 0, "kept": 11}
    assert a["mix"] == {
        "wanted": round(15 / 26, 5), "realised": round(15 / 26, 5), "passes": 1, "documents": 2,
        "tokens": 15, "learned_tokens": 5,
    }  # fmt: skip
    assert b["mix"]["learned_tokens"] == 7 + 2
    rows = {name: value for name, value in ledger["rows"].items() if name != "fill_histogram"}
    assert rows == {
        "count": 3, "sequence_length": 12, "room": 36, "tokens": 26, "padding": 10,
        "utilisation": round(26 / 36, 5), "learned_tokens": 14,
    }  # fmt: skip
    assert a["length_quantiles"] == {"min": 4, "p50": 5, "p90": 9, "p99": 9, "max": 10}


def paths_of(value, path=()):
    """Where the numbers of a ledger are that take part in a sum."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths_of(inner, (*path, name))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path


SUMS = [
    path for path in paths_of(small_ledger())
    if {"documents", "tokens"} & set(path[2:3]) or path[-1] in ("room", "tokens", "padding", "learned_tokens")
]  # fmt: skip


@pytest.mark.parametrize("path", SUMS, ids=map(".".join, SUMS))
@pytest.mark.parametrize("by", [1, -1])
def test_a_sum_that_does_not_close_is_noticed(path, by):
    ledger = small_ledger()
    check_closes(ledger)
    place = ledger
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] += by
    with pytest.raises(AssertionError, match="do not add up|differ"):
        check_closes(ledger)


def test_what_a_mix_shows_twice_is_counted_twice():
    ledger = small_ledger(mix_by="epochs", sources={})
    ones = ledger["sources"]["b"]["mix"]
    assert (ones["wanted"], ones["realised"], ones["passes"]) == (1, 1, 1)
    second = make_part([plain(8, 1), plain(3, 1)], "b", "pretrain", weight=2.0)
    first = make_part([plain(5, 2)], "a", weight=1.0)
    data = DataConfig(mix=["a", "b"], mix_by="epochs", sequence_length=12)
    ledger = split_ledger(PackedSplit([first, second], data, "train", 0, is_train=True))
    check_closes(ledger)
    mix = ledger["sources"]["b"]["mix"]
    assert mix == {
        "wanted": 2, "realised": 2, "passes": 2, "documents": 4, "tokens": 22, "learned_tokens": 18,
    }  # fmt: skip
    assert ledger["sources"]["b"]["tokens"]["kept"] == 11
    assert ledger["rows"]["tokens"] == 27


def test_sample_ids_that_are_there_again(tmp_path, tiny_tokenizer):
    records = [{"input": f"q{n}", "target": "a", "sample_id": name} for n, name in enumerate("xyxzx")]
    records += [{"input": "q7", "target": "a"}, {"input": "q8", "target": "a"}]
    lines = [json.dumps(record) for record in records]
    config = config_of(tmp_path, made_source(tmp_path, "toy", splits={"train": lines}))
    ledger = split_ledger(corpus_of(config, tiny_tokenizer).splits["train"])
    assert ledger["sources"]["toy"]["repeated_sample_ids"] == 2


@pytest.mark.parametrize(
    ("samples", "due"),
    [([], 0), ([0, 0, 0], 0), ([5, 5, 0], 1), ([5, 6, 5, 6, 5], 3)],
    ids=["none", "without_ids", "one", "several"],
)
def test_repeated(samples, due):
    assert repeated(np.array(samples, dtype=np.uint64)) == due


def test_a_source_without_documents_has_a_ledger_too(tmp_path, tiny_tokenizer):
    """Of weight 0, so that nothing is missed."""
    empty = made_source(tmp_path, "empty", splits={"train": [ask("q")]}, filter={"min_chars": 99}, weight=0.0)
    full = made_source(tmp_path, "full", splits={"train": [ask("q")]}, weight=1.0)
    ledger = split_ledger(corpus_of(config_of(tmp_path, empty, full), tiny_tokenizer).splits["train"])
    check_closes(ledger)
    source = ledger["sources"]["empty"]
    assert source["documents"] == {"read": 1, "dropped": {"min_chars": 1}, "kept": 0}
    assert source["length_quantiles"] == dict.fromkeys(["min", "p50", "p90", "p99", "max"], 0)
    assert (source["length_histogram"], source["mix"]["documents"], source["mix"]["passes"]) == ({}, 0, 0)


@settings(max_examples=60)
@given(values=st.lists(st.integers(0, 5000), min_size=1, max_size=50), more=st.integers(0, 500))
def test_a_histogram_counts_every_value_once(values, more):
    bars = histogram(np.array(values), max(values) + more)
    edges = bars["edges"]
    assert edges == sorted(set(edges))
    assert (edges[0], edges[-1]) == (0, max(1, max(values) + more))
    assert bars["counts"] == [
        sum(low <= value < high or value == high == edges[-1] for value in values)
        for low, high in pairwise(edges)
    ]


def test_quantiles():
    assert quantiles(np.arange(101)) == {"min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}


def test_a_ledger_is_plain_json(tmp_path, tiny_tokenizer):
    source = made_source(tmp_path, "toy", splits={"train": [ask("q"), ask("r")]}, validation_size=1.0)
    for split in corpus_of(config_of(tmp_path, source), tiny_tokenizer).splits.values():
        ledger = split_ledger(split)
        assert json.loads(json.dumps(ledger)) == ledger
