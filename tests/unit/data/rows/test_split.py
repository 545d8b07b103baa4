"""Splits as rows: lengths settled, mixes drawn, learned tokens counted as the labels have them."""

import re
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from medtune.config.schema import DataConfig, SourceConfig
from medtune.data.fates import Fate
from medtune.data.parts import Part
from medtune.data.rows.order import StepPlan
from medtune.data.rows.split import IGNORE_INDEX, PackedSplit
from tests.unit.data.made_parts import Document, make_part, make_store, plain


def split_of(*parts, is_train=True, seed=0, max_steps=None, rows_per_step=1, **data):
    mix = [part.name for part in parts] if len(parts) > 1 else []
    return PackedSplit(
        parts, DataConfig(**{"mix": mix, "sequence_length": 12, **data}), "train", seed,
        is_train=is_train, max_steps=max_steps, rows_per_step=rows_per_step,
    )  # fmt: skip


def filled(split, epoch, row):
    """The arrays of a row: input_ids, labels, position_ids, document_ids, source_ids."""
    arrays = np.full((5, int(split.rows_of(epoch).lengths[row])), IGNORE_INDEX)
    split.fill(epoch, row, *arrays)
    return arrays


@cache
def pool():
    """Documents of 2 to 30 tokens with up to three learned spans; some tokens have another label."""
    documents, rng = [], np.random.default_rng(0)
    for length in [2, 3, *rng.integers(4, 31, 78).tolist()]:
        bounds = sorted(rng.choice(np.arange(1, length), min(length - 1, rng.integers(1, 7)), replace=False))
        spans = list(zip(bounds[::2], [*bounds[1::2], length], strict=False))
        places = [place for first, last in spans for place in range(first, last)]
        relabels = [(place, 200 + place) for place in places if rng.random() < 0.15]
        ids = [4 + (7 * place + length) % 90 for place in range(length)]
        documents.append(Document(ids, spans, relabels, responses=len(spans)))
    return documents, make_store(documents)


def part_of_pool(name, objective, kept, **source):
    """A part of which only some documents stay."""
    _, store = pool()
    fates = np.full(len(store), Fate.DUPLICATE, dtype=np.uint8)
    fates[list(kept)] = Fate.KEPT
    return Part(name, "train", SourceConfig(name=name, **source), store, objective, fates)


@settings(max_examples=150, deadline=None)
@given(
    many=st.lists(st.sets(st.integers(0, 79), min_size=1, max_size=25), min_size=1, max_size=3),
    objectives=st.lists(st.sampled_from(["sft", "pretrain"]), min_size=3, max_size=3),
    packing=st.sampled_from(["bfd", "concat", "none"]),
    groups=st.sampled_from(["none", "turns", "source"]),
    overlong=st.sampled_from(["drop", "truncate", "split"]),
    length=st.integers(6, 40),
    weights=st.none() | st.lists(st.floats(0.25, 3), min_size=3, max_size=3),
    epoch=st.integers(0, 2),
)
def test_rows_hold_what_documents_say_and_learned_counts_are_those_of_the_labels(
    many, objectives, packing, groups, overlong, length, weights, epoch
):
    parts = []
    for number, some in enumerate(many):
        objective = "pretrain" if packing == "concat" else objectives[number]
        rule = "truncate" if overlong == "split" and objective == "sft" else overlong
        weight = weights[number] if weights else None
        parts.append(part_of_pool("abc"[number], objective, some, overlong=rule, weight=weight))
    try:
        split = split_of(*parts, sequence_length=length, packing=packing, pack_groups=groups, mix_by="epochs")
    except ValueError as error:
        if not re.search("is left for|must hold it and a token of the prompt|has no document", str(error)):
            raise
        reject()
    everything = pool()[0] * len(parts)
    rows = split.rows_of(epoch)
    pieces = list(zip(rows.document.tolist(), rows.start.tolist(), rows.end.tolist(), strict=True))
    for row, learned in enumerate(split.learned_of(epoch).tolist()):
        ids, labels, positions, numbers, sources = filled(split, epoch, row).tolist()
        inside = pieces[rows.offsets[row] : rows.offsets[row + 1]]
        owners = [int(split.offsets.searchsorted(document, side="right")) - 1 for document, _, _ in inside]
        assert ids == [token for at, start, end in inside for token in everything[at].ids[start:end]]
        assert labels == [
            label
            for (at, start, end), owner in zip(inside, owners, strict=True)
            for label in expected_labels(everything[at], start, end, parts[owner].objective)
        ]
        assert positions == [place for _, start, end in inside for place in range(end - start)]
        assert numbers == [n for n, (_, start, end) in enumerate(inside, 1) for _ in range(start, end)]
        assert sources == [
            n for n, (_, start, end) in zip(owners, inside, strict=True) for _ in range(start, end)
        ]
        assert learned == sum(label != IGNORE_INDEX for label in labels)
        assert len(ids) == rows.lengths[row] <= length
    draw = split.draw_of(epoch)
    assert (draw.tokens.sum(), draw.learned.sum()) == (rows.lengths.sum(), split.learned_of(epoch).sum())


def expected_labels(document, start, end, objective):
    """The labels of a document's tokens ``start:end``, one by one."""
    labels = [IGNORE_INDEX]
    for place in range(start + 1, end):
        if objective == "pretrain":
            labels.append(document.ids[place])
        elif any(first <= place < last for first, last in document.spans):
            labels.append(dict(document.relabels).get(place, document.ids[place]))
        else:
            labels.append(IGNORE_INDEX)
    return labels


def test_labels_differ_from_ids_where_the_template_says_so():
    document = Document([10, 11, 12, 13, 14, 15], [(1, 4), (5, 6)], [(3, 77)], responses=2)
    labels = filled(split_of(make_part([document])), 0, 0)[1]
    assert labels.tolist() == [IGNORE_INDEX, 11, 12, 77, IGNORE_INDEX, 15]
    whole = filled(split_of(make_part([document], objective="pretrain")), 0, 0)[1]
    assert whole.tolist() == [IGNORE_INDEX, 11, 12, 13, 14, 15]


def test_the_digest_tells_tokens_and_labels_apart_at_equal_lengths():
    base = Document([10, 11, 12, 13], [(2, 4)], [])
    others = [Document([10, 11, 12, 14], [(2, 4)], []), Document([10, 11, 12, 13], [(1, 3)], [])]
    first, again, *changed = (split_of(make_part([made])).digest for made in (base, base, *others))
    assert first == again
    assert len({first, *changed}) == 3


def test_a_row_tells_its_documents_apart():
    split = split_of(make_part([plain(5)], "a"), make_part([plain(4)], "b", "pretrain"))
    ids, labels, positions, numbers, sources = filled(split, 0, 0).tolist()
    assert ids == [4, 5, 6, 7, 8, 4, 5, 6, 7]
    assert labels == [-100, -100, -100, -100, 8, -100, 5, 6, 7]
    assert positions == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert numbers == [1] * 5 + [2] * 4
    assert sources == [0] * 5 + [1] * 4
    assert split.describe_row(0, 0) == "a.jsonl:1, b.jsonl:1"


# ------------------------------------------------------------------------------------------- lengths


LONG = [plain(3), plain(9, 2), plain(6, 2), plain(7, 2)]


def test_overlong_examples_stop_unless_something_else_is_chosen():
    message = (
        r"3 of 4 examples of four \(train\) are longer than data\.sequence_length=4 \(the longest, "
        r"four\.jsonl:2, has 9 tokens; half of them have at most 7\).*data\.overlong=drop"
    )
    with pytest.raises(ValueError, match=message):
        split_of(make_part(LONG, "four"), sequence_length=4)


def test_in_a_mix_the_key_is_the_sources_own():
    with pytest.raises(ValueError, match=r"or choose data\.sources\.b\.overlong=drop"):
        split_of(make_part([plain(3)], "a"), make_part([plain(13)], "b"))


def test_a_source_has_its_own_rule():
    split = split_of(
        make_part(LONG, "a", overlong="drop"),
        make_part(LONG, "b", "pretrain", overlong="split"),
        make_part(LONG, "c", overlong="truncate"),
        sequence_length=4,
    )
    assert [part.fates.tolist() for part in split.parts] == [[0, 6, 6, 6], [0] * 4, [0] * 4]
    pieces = split.pieces
    assert pieces.document.tolist() == [0, 4, 5, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11]
    assert (pieces.end - pieces.start).tolist() == [3, 3, 4, 4, 1, 4, 2, 4, 3, 3, 4, 4, 4]
    assert pieces.start[-4:].tolist() == [0, 5, 2, 3]
    assert pieces.learned[-4:].tolist() == [1, 2, 2, 2]
    assert split.draw_of(0).documents.tolist() == [1, 4, 4]


def test_the_parts_given_keep_their_fates():
    part = make_part(LONG, overlong="drop")
    split_of(part, sequence_length=4)
    assert part.fates.tolist() == [Fate.KEPT] * 4


def test_a_text_that_is_truncated_keeps_its_end():
    text = replace(plain(9, 9), responses=0)
    split = split_of(make_part([text], objective="pretrain", overlong="truncate"), sequence_length=4)
    assert (split.pieces.start.tolist(), split.pieces.end.tolist()) == ([5], [9])
    assert split.learned_of(0).tolist() == [3]


def test_a_response_is_never_cut():
    part = make_part([plain(3), plain(8, 4)], "two", overlong="truncate")
    assert split_of(part, sequence_length=5).pieces.start.tolist() == [0, 3]
    message = r"two\.jsonl:2: the response has 4 tokens but data\.sequence_length is 4, which must hold it"
    with pytest.raises(ValueError, match=message):
        split_of(part, sequence_length=4)


@pytest.mark.parametrize(
    ("length", "start", "relabelled", "learned"),
    [
        pytest.param(12, 0, 0, 7, id="whole"),
        pytest.param(11, 1, 1, 7, id="prompt_is_cut"),
        pytest.param(10, 5, 4, 4, id="first_response_would_have_no_prompt"),
        pytest.param(9, 5, 4, 4, id="first_response_would_be_cut"),
        pytest.param(7, 5, 5, 4, id="second_prompt_is_whole"),
        pytest.param(6, 6, 6, 4, id="second_prompt_is_cut"),
        pytest.param(5, 9, 8, 2, id="second_response_would_be_cut"),
        pytest.param(3, 9, 9, 2, id="least"),
    ],
)
def test_a_conversation_loses_its_oldest_turns_whole(length, start, relabelled, learned):
    """Where the end of a response is learned at the next prompt's first token, that token stays."""
    spans = [(2, 5), (7, 9), (10, 12)]
    for relabels, first in (([], start), ([(4, 50), (8, 50)], relabelled)):
        document = Document(list(range(10, 22)), spans, relabels, responses=3)
        split = split_of(make_part([document], overlong="truncate"), sequence_length=length)
        assert split.pieces.start.tolist() == [first]
        assert split.learned_of(0).tolist() == [learned]
        assert (filled(split, 0, 0)[1] != IGNORE_INDEX).sum() == learned


def test_splitting_responses_is_refused():
    with pytest.raises(ValueError, match=r"data\.overlong=split .* part a response of made from its prompt"):
        split_of(make_part(LONG, overlong="split"), sequence_length=4)


def test_concat_parts_no_response_from_its_prompt():
    with pytest.raises(
        ValueError, match=r"data\.packing=concat .* of b .*data\.sources\.b\.objective=pretrain"
    ):
        split_of(make_part(LONG, "a", "pretrain"), make_part(LONG, "b"), packing="concat")


def test_concat_loses_no_token_and_needs_no_rule_for_lengths():
    split = split_of(make_part(LONG, objective="pretrain"), packing="concat", sequence_length=4)
    rows = split.rows_of(0)
    assert rows.lengths.tolist() == [4] * 6 + [1]
    tokens = [token for row in range(7) for token in filled(split, 0, row)[0].tolist()]
    assert Counter(tokens) == Counter(token for document in LONG for token in document.ids)
    assert split.learned_of(0).sum() == 25 - len(rows.document)


def test_documents_that_teach_nothing_are_refused_or_left_out():
    mute = Document([5, 6, 7], [])
    first_only = Document([5, 6, 7], [(0, 1)])
    with pytest.raises(ValueError, match=r"m\.jsonl:2: this example has no response to learn \(2 of m have"):
        split_of(make_part([plain(3), mute, first_only], "m"))
    split = split_of(make_part([plain(3), mute, first_only], "m", on_error="skip"))
    assert split.parts[0].fates.tolist() == [Fate.KEPT, Fate.UNLEARNED, Fate.UNLEARNED]
    assert split_of(make_part([mute], objective="pretrain")).learned_of(0).tolist() == [2]


def test_a_split_of_single_tokens_teaches_nothing():
    with pytest.raises(ValueError, match=r"nothing of a \(train\) is learned"):
        split_of(make_part([Document([4]), Document([5])], "a", "pretrain"))


def test_a_source_without_an_example_left_is_refused_with_the_causes():
    part = make_part([plain(3), plain(20), plain(21)], "gone", overlong="drop")
    part.fates[0] = Fate.DUPLICATE
    message = r"no example of gone is left for train with data\.sequence_length=12: duplicate 1, overlong 2"
    with pytest.raises(ValueError, match=message):
        split_of(part)
    with pytest.raises(ValueError, match="no example of none is left for train .*: it had none"):
        split_of(make_part([plain(3)], "a"), make_part([], "none"))


# --------------------------------------------------------------------------------------- max_tokens


def capped(count, max_tokens, seed=0, first=0, **options):
    documents = [plain(5 + (first + number) % 7) for number in range(count)]
    documents = [
        Document([*document.ids[:-1], 1000 + first + number], document.spans)
        for number, document in enumerate(documents)
    ]
    part = make_part(documents, max_tokens=max_tokens)
    split = split_of(part, seed=seed, **options)
    return {documents[index].ids[-1] for index in split.parts[0].kept}, split


def test_max_tokens_keeps_about_so_many_tokens():
    chosen, split = capped(500, 1000)
    assert abs(split.draw_of(0).tokens[0] - 1000) <= 6
    assert Counter(split.parts[0].fates.tolist()) == {Fate.KEPT: len(chosen), Fate.CAPPED: 500 - len(chosen)}
    assert capped(500, 1000, seed=1)[0] != chosen, "the choice has no seed"
    assert len(capped(500, 10**6)[0]) == 500


def test_the_choice_of_max_tokens_hardly_changes_when_others_are_added():
    chosen, _ = capped(500, 1000)
    more, _ = capped(1000, 2000)
    assert len(chosen - more) <= 20
    assert len(more - chosen) > 80


def test_max_tokens_is_not_for_validation():
    assert len(capped(50, 20, is_train=False)[0]) == 50


# ---------------------------------------------------------------------------------------------- mix


def reasonable(name, count, seed, objective="sft", **source):
    """A source whose lengths spread as those of PromptCBLUE do."""
    lengths = np.clip(np.random.default_rng(seed).lognormal(2.5, 0.6, count), 3, 64).astype(int)
    return make_part([plain(length, 2) for length in lengths.tolist()], name, objective, **source)


@pytest.fixture(scope="module")
def stores():
    return [reasonable("a", 3000, 1), reasonable("b", 2000, 2, "pretrain"), reasonable("c", 5000, 3)]


def weighted(stores, weights, **source):
    return [
        replace(part, source=replace(part.source, weight=weight, **source))
        for part, weight in zip(stores, weights, strict=True)
    ]


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
    by=st.sampled_from(["tokens", "examples"]),
    stop=st.sampled_from(["first", "all", "steps"]),
    temperature=st.sampled_from([1.0, 2.0, 0.7]),
    epoch=st.integers(0, 3),
)
def test_the_realised_mix_is_the_wanted_one(stores, weights, by, stop, temperature, epoch):
    split = split_of(
        *weighted(stores, weights), sequence_length=64, mix_by=by, mix_stop=stop, mix_temperature=temperature,
        max_steps=60, rows_per_step=16,
    )  # fmt: skip
    draw = split.draw_of(epoch)
    expected = np.array(weights) ** (1 / temperature)
    assert draw.wanted == pytest.approx(expected / expected.sum(), rel=1e-9)
    assert np.abs(draw.realised - draw.wanted).max() <= 0.005
    large = draw.documents >= 2000
    assert np.abs(draw.realised / draw.wanted - 1)[large].max(initial=0) <= 0.005
    counted = draw.tokens if by == "tokens" else draw.documents
    assert draw.realised == pytest.approx(counted / counted.sum(), rel=1e-12)
    assert draw.tokens.sum() == split.rows_of(epoch).lengths.sum()
    if stop == "first":
        assert draw.passes.max() == 1
    elif stop == "all":
        assert draw.passes.min() == 1
    elif epoch == 0:
        assert 60 * 16 <= len(split.rows_of(0)) <= 60 * 16 * 1.03


def test_a_mix_without_weights_shows_everything_once_in_every_epoch(stores):
    split = split_of(*stores, sequence_length=64)
    assert split.is_constant
    assert split.rows_of(3) is split.rows_of(0)
    assert Counter(split.rows_of(0).document.tolist()) == Counter(range(10_000))
    assert split.draw_of(0).realised.tolist() == split.draw_of(0).wanted.tolist()


def test_passes_are_what_epochs_say(stores):
    split = split_of(*weighted(stores, [2, 0.5, None]), sequence_length=64, mix_by="epochs")
    draw = split.draw_of(1)
    assert draw.documents.tolist() == [6000, 1000, 5000]
    assert (draw.wanted.tolist(), draw.realised.tolist()) == ([2, 0.5, 1], [2, 0.5, 1])
    assert not split.is_constant


def test_epochs_show_other_documents_of_an_undersampled_source(stores):
    split = split_of(*weighted(stores, [1, 1, 1]), sequence_length=64, mix_by="examples")
    epochs = [split.rows_of(epoch).document for epoch in range(5)]
    last = [set(shown[shown >= 5000].tolist()) for shown in epochs]
    assert [len(shown) for shown in last[:2]] == [2000, 2000]
    assert not last[0] & last[1]
    assert set().union(*last[:3]) == set(range(5000, 10_000))
    assert last[1] & last[3]


def test_documents_of_every_epoch_meet_others_in_their_rows():
    parts = [make_part([plain(3)] * 64, name, weight=weight) for name, weight in (("a", 1), ("b", 0.5))]
    split = split_of(*parts, sequence_length=6, mix_by="epochs")
    pairs = [split.rows_of(epoch).document.reshape(-1, 2).tolist() for epoch in range(2)]
    always_shown = [{frozenset(pair) for pair in epoch if max(pair) < 64} for epoch in pairs]
    assert len(always_shown[0] & always_shown[1]) < len(always_shown[0]) / 2


def test_a_source_draws_the_same_documents_whatever_is_mixed_with_it(stores):
    a, b, c = weighted([stores[0]] * 3, [0.5, 0.25, 0.125])
    b, c = replace(b, name="b"), replace(c, name="c")
    two, three = (split_of(*parts, sequence_length=64, mix_by="epochs") for parts in ((a, c), (a, b, c)))
    drawn = [split.rows_of(1).document for split in (two, three)]
    assert set(drawn[0][drawn[0] < 3000]) == set(drawn[1][drawn[1] < 3000])
    assert set(drawn[0][drawn[0] >= 3000] + 3000) == set(drawn[1][drawn[1] >= 6000])
    assert not set(drawn[1][drawn[1] >= 6000] - 6000) <= set(drawn[1][drawn[1] < 3000])


def test_epochs_are_functions_of_the_seed_and_their_number(stores):
    parts = weighted(stores, [1, 2, 3])
    first, again = (split_of(*parts, sequence_length=64) for _ in range(2))
    forwards = [first.rows_of(epoch).document.tolist() for epoch in range(4)]
    backwards = [again.rows_of(epoch).document.tolist() for epoch in (3, 2, 1, 0)][::-1]
    assert forwards == backwards
    assert forwards[0] != forwards[1]
    assert split_of(*parts, sequence_length=64, seed=1).rows_of(0).document.tolist() != forwards[0]


def test_only_two_epochs_are_kept_in_memory(stores):
    split = split_of(*weighted(stores, [1, 2, 3]), sequence_length=64)
    rows = [split.rows_of(epoch) for epoch in range(3)]
    assert split.rows_of(2) is rows[2]
    assert split.rows_of(1) is rows[1]
    assert split.rows_of(0) is not rows[0]


def test_a_source_of_weight_zero_is_left_out_and_said(stores, caplog):
    split = split_of(*weighted(stores, [1, 0, 1]), sequence_length=64)
    assert split.draw_of(0).documents[1] == 0
    assert "nothing of b is learned" in caplog.text
    split_of(make_part([plain(4)], "a", weight=1), make_part([], "b", weight=0))


def test_a_cap_on_passes_shows_in_the_realised_mix(stores):
    split = split_of(*weighted(stores, [1, 1, 1], max_passes=1.25), sequence_length=64, mix_stop="all")
    draw = split.draw_of(0)
    assert draw.passes == pytest.approx([1.25, 1.25, 1], abs=0.001)
    assert draw.wanted.tolist() == pytest.approx([1 / 3] * 3)
    assert draw.realised[2] > 0.44


def test_capped_sources_leave_the_steps_to_the_others(stores):
    parts = weighted(stores, [8, 1, 1])
    parts[0].source.max_passes = 0.5
    split = split_of(*parts, sequence_length=64, mix_stop="steps", max_steps=200, rows_per_step=8)
    assert split.draw_of(0).passes[0] == pytest.approx(0.5, abs=0.001)
    assert 1600 <= len(split.rows_of(0)) <= 1600 * 1.03


def test_sources_that_are_all_capped_are_repeated(stores, caplog):
    parts = weighted(stores, [1, 1, 1], max_passes=0.1)
    split = split_of(*parts, sequence_length=64, mix_stop="steps", max_steps=10_000)
    assert "a second epoch follows" in caplog.text
    assert split.draw_of(0).passes == pytest.approx([0.1] * 3, abs=0.001)
    assert not set(split.rows_of(0).document.tolist()) & set(split.rows_of(1).document.tolist())


def test_a_mix_that_ends_after_its_steps_needs_their_number(stores):
    with pytest.raises(ValueError, match=r"set trainer\.max_steps=N"):
        split_of(*weighted(stores, [1, 1, 1]), sequence_length=64, mix_stop="steps")


def test_an_epoch_without_a_document_is_refused():
    parts = [make_part([plain(9)], name, weight=1, max_passes=0.01) for name in "ab"]
    with pytest.raises(ValueError, match="the first epoch of the mix has no document of a, b"):
        split_of(*parts)


def test_later_epochs_may_be_empty_and_are_passed_over():
    parts = [make_part([plain(9), plain(9)], name, weight=0.5, max_passes=0.3) for name in "ab"]
    split = split_of(*parts)
    plan = StepPlan(split, 1, 1, 1)
    counts = [plan.steps_of(epoch) for epoch in range(8)]
    assert 0 in counts
    assert [plan.epoch_of(step)[0] for step in range(sum(counts))] == [
        epoch for epoch, count in enumerate(counts) for _ in range(count)
    ]


def test_validation_shows_everything_once_whatever_the_weights(stores):
    split = split_of(*weighted(stores, [1, 5, 0]), sequence_length=64, is_train=False)
    assert split.is_constant
    assert split.draw_of(0).documents.tolist() == [3000, 2000, 5000]


# ------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize("groups", ["turns", "source"])
def test_groups_share_no_row(groups):
    def documents(turns):
        return [
            Document(list(range(10, 13 + number % 4)), [(1, 2)], responses=turns[number % 2])
            for number in range(20)
        ]

    split = split_of(make_part(documents([1, 2]), "a"), make_part(documents([3, 0]), "b"), pack_groups=groups)
    rows = split.rows_of(0)
    for first, last in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        inside = rows.document[first:last]
        is_b, odd = inside >= 20, inside % 2 == 1
        kinds = is_b if groups == "source" else is_b ^ odd
        assert len(set(kinds.tolist())) == 1
    assert sorted(rows.document.tolist()) == list(range(40))
