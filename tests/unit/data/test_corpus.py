"""Sources become splits: who is held out, what is learned, and what training is compared with."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.config.sources import sources_of
from medtune.data.corpus import build_corpus, contents, objective_of, smallest_prompts
from medtune.data.fates import Fate
from medtune.data.tokens.content import fingerprint
from medtune.data.tokens.prepare import TokenizerSource
from tests.unit.data.made_corpora import (
    FORMATS,
    Talk,
    ask,
    config_of,
    corpus_of,
    fate_of_lines,
    made_source,
    number_of,
    record_of,
    write_talks,
)
from tests.unit.data.made_sources import make_source, make_split

TALKS = [ask(f"q{number}?", f"a{number}") for number in range(60)]
SHARE = 0.3


def is_below(prompt, share):
    """The rule itself: the prompt's fingerprint as a number below the share."""
    return number_of(prompt) < share * 2**64


def sides_of(corpus, name="toy"):
    """By file:line, whether a record is held out, as the training and the validation part have it."""
    train, validation = (
        next(part for part in corpus.splits[split].parts if part.name == name)
        for split in ("train", "validation")
    )
    held = {line: fate == Fate.VALIDATION for line, fate in fate_of_lines(train).items()}
    assert held == {line: fate == Fate.KEPT for line, fate in fate_of_lines(validation).items()}
    assert held == {line: fate != Fate.TRAIN for line, fate in fate_of_lines(validation).items()}
    assert (train.split, validation.split) == ("train", "train")
    return list(held.values())


def toy(folder, talks=TALKS, **source):
    return made_source(folder, "toy", splits={"train": talks}, **{"validation_size": SHARE, **source})


def test_a_shares_sides_follow_from_the_prompts_alone(tmp_path, tiny_tokenizer):
    due = [is_below(talk.prompt, SHARE) for talk in TALKS]
    assert 8 < sum(due) < 30
    assert sides_of(corpus_of(config_of(tmp_path, toy(tmp_path)), tiny_tokenizer)) == due


CHANGES = {
    "other_responses": lambda folder: toy(folder, [ask(talk.prompt, "!") for talk in TALKS]),
    "more_records": lambda folder: toy(folder, [*TALKS, *(ask(f"new {n}") for n in range(40))]),
    "another_format": lambda folder: toy(folder, format="messages"),
    "a_system_prompt": lambda folder: toy(folder, [replace(t, system="s") for t in TALKS], format="alpaca"),
    "another_name": lambda folder: {**toy(folder), "weight": 3.0, "name": "toy"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("seed", [0, 7])
def test_no_record_changes_its_side(tmp_path, tiny_tokenizer, change, seed):
    due = [is_below(talk.prompt, SHARE) for talk in TALKS]
    corpus = corpus_of(config_of(tmp_path, change(tmp_path), seed=seed), tiny_tokenizer)
    assert sides_of(corpus)[: len(TALKS)] == due


def test_neither_the_order_of_lines_nor_another_source_moves_a_record(tmp_path, tiny_tokenizer):
    order = np.random.default_rng(0).permutation(len(TALKS)).tolist()
    other = made_source(tmp_path, "other", splits={"train": TALKS[:20]})
    source = toy(tmp_path, [TALKS[at] for at in order])
    corpus = corpus_of(config_of(tmp_path, other, source), tiny_tokenizer)
    assert sides_of(corpus) == [is_below(TALKS[at].prompt, SHARE) for at in order]
    assert [part.name for part in corpus.splits["validation"].parts] == ["toy"]


def test_equal_prompts_are_on_one_side(tmp_path, tiny_tokenizer):
    """However they are written: letter case, width and white space are no difference."""
    talks = [ask(prompt, str(n)) for n in range(20) for prompt in (f"Q {n}?", f"q{n}？", f"q{n}?")]
    sides = np.reshape(
        sides_of(corpus_of(config_of(tmp_path, toy(tmp_path, talks)), tiny_tokenizer)), (-1, 3)
    )
    assert (sides == sides[:, :1]).all()
    assert 0 < sides[:, 0].sum() < 20


def test_earlier_turns_belong_to_the_prompt_and_earlier_responses_do_not(tmp_path, tiny_tokenizer):
    talks = [Talk(((f"q{n}", response), ("and?", "so"))) for n in range(30) for response in ("yes", "no")]
    source = toy(tmp_path, talks, format="messages")
    sides = sides_of(corpus_of(config_of(tmp_path, source), tiny_tokenizer))
    assert sides == [is_below(f"q{n}\nand?", SHARE) for n in range(30) for _ in range(2)]


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """The fingerprints of a hundred prompts, of which the first of every ten is there ten times."""
    records = [(f"q{number if number % 10 else 0}", f"a{number}") for number in range(100)]
    return make_split(
        make_source(tmp_path_factory.mktemp("store"), "s", train=records), "train"
    ).store.prompts


@settings(max_examples=60, deadline=None)
@given(number=st.integers(1, 99))
def test_a_number_takes_at_least_that_many_and_only_ties_more(prompts, number):
    held = smallest_prompts(prompts, float(number))
    last = prompts[held].max()
    assert (held == (prompts <= last)).all()
    assert (prompts < last).sum() < number <= held.sum()


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.02, 0.97), more=st.floats(0, 0.02))
def test_a_larger_share_takes_some_more(prompts, share, more):
    smaller, larger = (smallest_prompts(prompts, size) for size in (share, share + more))
    assert (larger | ~smaller).all()
    assert smaller.tolist() == [value < share * 2**64 for value in prompts.tolist()]


@pytest.mark.parametrize("size", [4, 5, 1000, 0.9999999])
@pytest.mark.parametrize(
    ("others", "key"),
    [pytest.param([], "data", id="alone"), pytest.param(["b"], r"data\.sources\.toy", id="in_a_mix")],
)
def test_a_size_that_leaves_nothing_is_refused(tmp_path, tiny_tokenizer, size, others, key):
    source = toy(tmp_path, [ask("a"), ask("b"), ask("c"), ask("d")], validation_size=float(size))
    more = [made_source(tmp_path, name, splits={"train": TALKS[:5]}) for name in others]
    with pytest.raises(
        ValueError, match=rf"^{key}\.validation_size={size} leaves nothing of toy.* 4 examples"
    ):
        corpus_of(config_of(tmp_path, source, *more), tiny_tokenizer)


def test_ties_that_take_everything_are_refused_too(tmp_path, tiny_tokenizer):
    source = toy(tmp_path, [ask("same", str(number)) for number in range(5)], validation_size=2.0)
    with pytest.raises(
        ValueError, match=r"validation_size=2 leaves nothing of toy to learn: it has 5 examples"
    ):
        corpus_of(config_of(tmp_path, source), tiny_tokenizer)


def test_a_share_that_holds_out_nothing_is_told(tmp_path, tiny_tokenizer, caplog):
    source = toy(tmp_path, TALKS[:3], validation_size=1e-9)
    corpus = corpus_of(config_of(tmp_path, source), tiny_tokenizer)
    assert list(corpus.splits) == ["train"]
    assert "data.validation_size=1e-09 holds out none of the 3 examples of toy" in caplog.text


def test_a_source_all_of_whose_records_are_left_out_says_what_left_them_out(tmp_path, tiny_tokenizer):
    source = toy(tmp_path, TALKS[:5], validation_size=2.0, filter={"min_chars": 100})
    with pytest.raises(ValueError, match=r"no example of toy is left for train.*: min_chars 5;"):
        corpus_of(config_of(tmp_path, source), tiny_tokenizer)


def test_validation_of_a_mix_is_made_of_splits_and_of_what_is_held_out(tmp_path, tiny_tokenizer):
    sources = [
        made_source(tmp_path, "own", splits={"train": TALKS[:9], "validation": [ask("v1"), ask("v2")]}),
        made_source(tmp_path, "none", splits={"train": TALKS[9:15]}),
        toy(tmp_path),
    ]
    corpus = corpus_of(config_of(tmp_path, *sources), tiny_tokenizer)
    train, validation = corpus.splits["train"], corpus.splits["validation"]
    assert [(part.name, part.split) for part in validation.parts] == [("own", "validation"), ("toy", "train")]
    assert train.source_names == validation.source_names == ["own", "none", "toy"]
    assert [len(part.kept) for part in train.parts][:2] == [9, 6]
    assert len(validation.parts[0].kept) == 2
    assert len(train.parts[2].kept) + len(validation.parts[1].kept) == len(TALKS)


OBJECTIVES = {
    "alone_sft": ("sft", False, "promptcblue", None, "sft"),
    "alone_pretrain": ("pretrain", False, "promptcblue", None, "pretrain"),
    "alone_text": ("pretrain", False, "text", None, "pretrain"),
    "alone_own_has_no_say": ("sft", False, "promptcblue", "pretrain", "sft"),
    "mix_pairs": ("sft", True, "promptcblue", None, "sft"),
    "mix_text": ("sft", True, "text", None, "pretrain"),
    "mix_text_found_out": ("sft", True, "auto", None, "pretrain"),
    "mix_pairs_found_out": ("sft", True, "auto_pairs", None, "sft"),
    "mix_own": ("sft", True, "promptcblue", "pretrain", "pretrain"),
    "mix_own_of_text": ("pretrain", True, "text", "pretrain", "pretrain"),
    "mix_own_against_the_runs": ("pretrain", True, "promptcblue", "sft", "sft"),
    "mix_all_pretrain": ("pretrain", True, "promptcblue", None, "pretrain"),
}


@pytest.mark.parametrize(("run", "mixed", "format", "own", "due"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_what_is_learned_of_a_source(tmp_path, run, mixed, format, own, due):
    written = {"auto": "text", "auto_pairs": "promptcblue"}.get(format, format)
    talks = [Talk(text="a text")] if written == "text" else TALKS[:1]
    source = made_source(tmp_path, "toy", written, {"train": talks})
    source |= {"format": "auto" if format.startswith("auto") else format, "objective": own}
    others = [made_source(tmp_path, "other", splits={"train": TALKS[:1]})] if mixed else []
    config = config_of(tmp_path, source, *others, objective=run)
    assert objective_of(config, sources_of(config.data)["toy"]) == due


@pytest.mark.parametrize("format", ["auto", "text"])
@pytest.mark.parametrize(
    ("others", "key"),
    [
        pytest.param([], "objective", id="alone"),
        pytest.param(["b"], r"data\.sources\.toy\.objective", id="mix"),
    ],
)
def test_responses_of_a_text_cannot_be_learned(tmp_path, format, others, key):
    own = "sft" if others else None
    source = made_source(tmp_path, "toy", "text", {"train": [Talk(text="a text")]}, objective=own)
    more = [made_source(tmp_path, name, splits={"train": TALKS[:1]}) for name in others]
    config = config_of(tmp_path, {**source, "format": format}, *more)
    with pytest.raises(ValueError, match=rf"^{key}=sft .*toy \(train\.jsonl\) is text.*set {key}=pretrain"):
        objective_of(config, sources_of(config.data)["toy"])


def test_a_text_that_is_found_out_is_learned_whole(tmp_path, tiny_tokenizer):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_text("a document\nanother\n", encoding="utf-8")
    text = {"name": "plain", "dir": str(tmp_path / "plain"), "splits": {"train": "a.txt"}}
    pairs = made_source(tmp_path, "pairs", splits={"train": TALKS[:2]})
    split = corpus_of(config_of(tmp_path, pairs, text), tiny_tokenizer).splits["train"]
    assert [part.objective for part in split.parts] == ["sft", "pretrain"]
    assert split.draw_of(0).learned.tolist() == [2 * len("a0 "), len("a document") + len("another")]


HELD_OUT = {
    "train": [ask("a", "1"), ask("b", "2"), ask("c", "3"), ask("d", "4"), ask("e", "5")],
    "validation": [ask("A", "1"), ask("x", "9")],  # one of training's
    "test": [ask("b", None), ask("c", None), ask("y", None)],  # the answers withheld; two of training's
}


def contamination(corpus):
    return {
        (entry["source"], entry["split"]): (entry["exact"], entry["near"])
        for entry in corpus.duplicates.as_dict()["contamination"]
    }


@pytest.mark.parametrize(("rule", "kept"), [("report", 5), ("remove", 2)])
def test_training_examples_in_held_out_splits(tmp_path, tiny_tokenizer, caplog, rule, kept):
    source = made_source(tmp_path, "toy", splits=HELD_OUT)
    corpus = corpus_of(config_of(tmp_path, source, contamination=rule), tiny_tokenizer)
    assert contamination(corpus) == {("toy", "validation"): (1, None), ("toy", "test"): (2, None)}
    (part,) = corpus.splits["train"].parts
    assert len(part.kept) == kept
    assert (part.fates == Fate.CONTAMINATED).tolist() == [rule == "remove"] * 3 + [False] * 2
    assert "2 training examples of toy are in test too" in caplog.text
    assert corpus.splits["validation"].parts[0].fates.tolist() == [Fate.KEPT] * 2


def test_held_out_splits_of_a_mix_are_those_of_every_source(tmp_path, tiny_tokenizer):
    first = made_source(tmp_path, "first", splits={"train": [ask("a"), ask("b"), *TALKS[:40]]})
    second = made_source(tmp_path, "second", "pair", {"train": [ask("z")], "test": [ask("B", None)]})
    third = made_source(
        tmp_path, "third", "alpaca", {"train": [*TALKS[20:], ask("a")]}, validation_size=SHARE
    )
    corpus = corpus_of(config_of(tmp_path, first, second, third, contamination="remove"), tiny_tokenizer)
    both = sum(is_below(talk.prompt, SHARE) for talk in TALKS[20:40]) + is_below("a", SHARE)
    assert contamination(corpus) == {
        ("first", "third/validation"): (both, None),
        ("second", "third/validation"): (0, None),
        ("third", "third/validation"): (0, None),  # equal prompts share a side
        ("first", "second/test"): (1, None),
        ("second", "second/test"): (0, None),
        ("third", "second/test"): (0, None),
    }
    assert len(corpus.splits["train"].parts[0].kept) == 42 - both - 1


def test_similar_examples_are_found_in_what_is_held_out(tmp_path, tiny_tokenizer):
    """The texts of a held-out part are read again, those of its documents alone."""
    words = "患者有高血压糖尿病头痛发热咳嗽为是的否不"
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(words), 80)) for _ in range(40)]
    talks = [Talk(text=text) for text in texts] + [Talk(text=text[:70] + "咳嗽发热") for text in texts]
    source = toy(tmp_path, talks, format="text")
    corpus = corpus_of(
        config_of(tmp_path, source, objective="pretrain", dedup="near", sequence_length=128), tiny_tokenizer
    )
    held = [is_below(talk.prompt, SHARE) for talk in talks]
    parted = sum(first != second for first, second in zip(held[:40], held[40:], strict=True))
    pairs = [{first, second} for first, second in zip(held[:40], held[40:], strict=True)]
    assert contamination(corpus) == {("toy", "validation"): (0, parted)}
    fates = corpus.splits["train"].parts[0].fates
    assert (fates == Fate.NEAR_DUPLICATE).sum() == pairs.count({False})
    assert (fates == Fate.VALIDATION).tolist() == held


def test_a_split_that_nothing_needs_may_be_missing(tmp_path, tiny_tokenizer, caplog):
    caplog.set_level(logging.INFO)
    source = made_source(tmp_path, "toy", splits=HELD_OUT)
    (tmp_path / "toy" / "test.jsonl").unlink()
    corpus = corpus_of(config_of(tmp_path, source), tiny_tokenizer)
    assert contamination(corpus) == {("toy", "validation"): (1, None)}
    assert f"data: not compared with the training examples: {tmp_path / 'toy' / 'test.jsonl'}" in caplog.text
    (tmp_path / "toy" / "validation.jsonl").unlink()
    with pytest.raises(ValueError, match=r"validation\.jsonl"):
        corpus_of(config_of(tmp_path, source), tiny_tokenizer)


@pytest.mark.parametrize("format", FORMATS)
def test_contents_are_those_of_the_documents_in_order(tmp_path, tiny_tokenizer, format):
    """Between them are broken lines, records that a filter leaves out, and files without a document."""
    talks = []
    for number in range(30):
        words = "word " * (number % 5)
        talks.append(
            Talk(text=f"Text {number} {words}") if format == "text" else ask(f"Q {number}", words + "a")
        )
    for number in (3, 4, 17, 29):
        talks[number] = '{"broken": '
    source = made_source(
        tmp_path, "toy", format, filter={"min_chars": 11, "exclude": "[25]"}, on_error="skip", max_examples=28
    )
    for number in range(4):
        write_talks(tmp_path / "toy" / f"part-{number}.jsonl", talks[number * 8 : number * 8 + 8], format)
    write_talks(tmp_path / "toy" / "part-15.jsonl", ['{"broken": '], format)
    source["splits"] = {"train": "part-*.jsonl"}
    config = config_of(tmp_path, source, objective="pretrain")
    (part,) = corpus_of(config, tiny_tokenizer).splits["train"].parts
    meta = part.store.meta
    assert meta["records"] == 28
    assert set(meta["dropped"]) == {"error", "min_chars", "exclude"}
    found = [*contents(part)]
    assert len(found) == len(part.store) == 28 - sum(meta["dropped"].values()) > 5
    assert b"".join(map(fingerprint, found)) == part.store.content.tobytes()


def test_a_warm_start_loads_no_tokenizer(tmp_path, tiny_tokenizer, caplog):
    caplog.set_level(logging.INFO)
    sources = [
        made_source(tmp_path, "first", splits=HELD_OUT, validation_size=None),
        toy(tmp_path, format="messages"),
        made_source(tmp_path, "text", "text", {"train": [Talk(text=f"text {n}") for n in range(9)]}),
    ]
    cold = TokenizerSource.of(tiny_tokenizer)
    before = build_corpus(config_of(tmp_path, *sources, dedup="near"), cold)
    assert caplog.text.count("data: tokenising") == 4
    caplog.clear()

    def never():
        raise AssertionError("the tokenizer was loaded")

    warm = TokenizerSource(cold.fingerprint, never)
    weighted = [{**source, "weight": number + 1.0} for number, source in enumerate(sources)]
    after = build_corpus(
        config_of(
            tmp_path, *weighted, dedup="near", sequence_length=32, packing="none", seed=3, mix_by="examples"
        ),
        warm,
    )  # fmt: skip
    assert caplog.text.count("read from the cache") == 4
    assert "tokenising" not in caplog.text
    for split in ("train", "validation"):
        assert [part.store.folder for part in after.splits[split].parts] == [
            part.store.folder for part in before.splits[split].parts
        ]
    assert after.pad_id == before.pad_id == tiny_tokenizer.pad_token_id


def test_every_format_says_the_same():
    """The tests' own writer: what is read back must be what was said."""
    talk = Talk((("q", "a"), ("r", "b")), system="s")
    assert record_of(talk, "messages")["messages"][0] == {"role": "system", "content": "s"}
    assert record_of(talk, "alpaca")["history"] == [["q", "a"]]
