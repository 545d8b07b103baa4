"""Mixes: how often an epoch goes over each source, and which of its documents it shows."""

from collections import Counter
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.config.schema import DataConfig, SourceConfig
from medtune.data.rows.mix import draw_documents, mixture_of, nearest_cut, scaled

SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(np.array)
SEED = [7, 1]


def sources_of(weights, max_passes=(None, None, None)):
    names = "abc"[: len(weights)]
    return [
        SourceConfig(name=name, weight=weight, max_passes=most)
        for name, weight, most in zip(names, weights, max_passes, strict=False)
    ]


@pytest.mark.parametrize(
    ("settings", "weights", "wanted", "passes"),
    [
        pytest.param({}, [None, None], [0.2, 0.8], [1, 1], id="own_sizes"),
        pytest.param({"mix_stop": "all"}, [None, None], [0.2, 0.8], [1, 1], id="own_sizes_to_the_last"),
        pytest.param({}, [1, 1], [0.5, 0.5], [1, 0.25], id="first"),
        pytest.param({"mix_stop": "all"}, [1, 1], [0.5, 0.5], [4, 1], id="all"),
        pytest.param({"mix_stop": "steps"}, [1, 1], [0.5, 0.5], [2.5, 0.625], id="steps"),
        pytest.param({"mix_stop": "all"}, [3, 1], [0.75, 0.25], [12, 1], id="weights_are_shares"),
        pytest.param({"mix_temperature": 2}, [4, 1], [2 / 3, 1 / 3], [1, 0.125], id="temperature"),
        pytest.param({"mix_temperature": 2}, [None, None], [1 / 3, 2 / 3], [1, 0.5], id="tempered_sizes"),
        pytest.param({"mix_temperature": 0.001}, [1e9, 1], [1, 0], [1, 0], id="cold_does_not_overflow"),
        pytest.param({"mix_by": "epochs"}, [2, 0.5], [2, 0.5], [2, 0.5], id="epochs"),
        pytest.param({"mix_by": "epochs"}, [2, None], [2, 1], [2, 1], id="epochs_default_to_one"),
        pytest.param({"mix_stop": "all"}, [0, 1], [0, 1], [0, 1], id="a_weight_of_zero"),
    ],
)
def test_weights_become_passes(settings, weights, wanted, passes):
    sources = sources_of(weights)
    mixture = mixture_of(np.array([100, 400]), sources, DataConfig(mix=["a", "b"], **settings))
    assert mixture.wanted == pytest.approx(wanted, abs=1e-12)
    assert mixture.passes == pytest.approx(passes, abs=1e-12)


def test_a_source_stays_at_its_most_passes():
    data = DataConfig(mix=["a", "b"], mix_stop="all")
    sources = sources_of([1, 1], max_passes=[1.5, None])
    mixture = mixture_of(np.array([100, 400]), sources, data)
    assert mixture.wanted.tolist() == [0.5, 0.5]
    assert mixture.passes.tolist() == [1.5, 1]


def test_what_fills_the_steps_of_a_capped_source_comes_from_the_others():
    """A cap on the passes before scaling would also hold where an epoch is shorter."""
    sources = sources_of([1, 1], max_passes=[1.5, None])
    mixture = mixture_of(np.array([100, 400]), sources, DataConfig(mix=["a", "b"], mix_stop="steps"))
    assert scaled(mixture, 0.5, sources).passes.tolist() == [1.25, 0.3125]
    assert scaled(mixture, 4, sources).passes.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("count", [3, 7, 49])
def test_one_pass_over_each_is_exactly_one(count):
    """Shares of a sum are rounded; a pass that is nearly whole would make epochs differ."""
    sizes = np.random.default_rng(count).integers(1, 10**6, count)
    sources = [SourceConfig(name=str(number)) for number in range(count)]
    mixture = mixture_of(sizes, sources, DataConfig(mix=["x"]))
    assert mixture.passes.tolist() == [1.0] * count
    assert mixture.is_constant


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        pytest.param([1, None], r"b has no weight .* set data\.sources\.b\.weight=", id="some"),
        pytest.param([0, 0], r"data\.sources\.a\.weight=0.*at least one is above", id="all_zero"),
        pytest.param([1, -1], r"data\.sources\.b\.weight=-1: weights are numbers from 0", id="negative"),
        pytest.param([1, float("nan")], r"data\.sources\.b\.weight=nan", id="no_number"),
    ],
)
def test_weights_of_which_no_mix_can_be_made_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture_of(np.array([10, 20]), sources_of(weights), DataConfig(mix=["a", "b"]))


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"data\.mix_temperature=0 must be above 0"):
        mixture_of(np.array([1]), sources_of([1]), DataConfig(mix=["a"], mix_temperature=0))


@settings(max_examples=200)
@given(sizes=SIZES, passes=st.floats(0, 3.5), epochs=st.integers(1, 12))
def test_every_document_is_shown_before_any_is_shown_once_more(sizes, passes, epochs):
    """Beyond its whole passes, which each epoch shows: over epochs, counts differ by one at most."""
    drawn = [draw_documents(sizes, passes, SEED, epoch) for epoch in range(epochs)]
    for epoch, shown in enumerate(accumulate(Counter(part.tolist()) for part in drawn), start=1):
        rest = [shown[document] - epoch * int(passes) for document in range(len(sizes))]
        assert max(rest) - min(rest) <= 1
        assert min(Counter(drawn[epoch - 1].tolist())[document] for document in range(len(sizes))) >= int(
            passes
        )


@settings(max_examples=200)
@given(sizes=SIZES, passes=st.floats(0, 3.5), epoch=st.integers(0, 50))
def test_an_epoch_is_as_large_as_asked_but_for_a_document(sizes, passes, epoch):
    drawn = draw_documents(sizes, passes, SEED, epoch)
    assert abs(sizes[drawn].sum() - passes * sizes.sum()) <= sizes.max() + 1e-6
    so_far = sum(sizes[draw_documents(sizes, passes, SEED, number)].sum() for number in range(epoch + 1))
    assert abs(so_far - (epoch + 1) * passes * sizes.sum()) <= sizes.max() / 2 + 1e-6, "errors add up"


@given(sizes=SIZES, passes=st.floats(0.01, 3.5), epoch=st.integers(0, 20))
def test_an_epoch_depends_on_nothing_drawn_before(sizes, passes, epoch):
    alone = draw_documents(sizes, passes, SEED, epoch).tolist()
    for number in range(3):
        draw_documents(sizes, passes, SEED, number)
    assert draw_documents(sizes, passes, SEED, epoch).tolist() == alone


def test_epochs_of_an_undersampled_source_show_fresh_documents():
    sizes = np.full(100, 5)
    epochs = [set(draw_documents(sizes, 0.25, SEED, epoch).tolist()) for epoch in range(8)]
    assert [len(epoch) for epoch in epochs] == [25] * 8
    assert set.union(*epochs[:4]) == set.union(*epochs[4:]) == set(range(100))
    assert epochs[0] != epochs[4], "the second round is the first again"


def test_whole_passes_show_the_same_documents_in_every_epoch():
    shown = [sorted(draw_documents(np.array([3, 1, 2]), 2, SEED, epoch)) for epoch in range(2)]
    assert shown == [[0, 0, 1, 1, 2, 2]] * 2


def test_a_source_too_small_for_its_share_of_an_epoch_has_its_turn_later():
    shown = [draw_documents(np.array([10]), 0.25, SEED, epoch).tolist() for epoch in range(8)]
    assert sum(map(len, shown)) == 2
    assert max(map(len, shown)) == 1


@pytest.mark.parametrize(
    ("share", "count"),
    [(0, 0), (0.2, 0), (0.25, 0), (0.26, 1), (0.5, 1), (0.6, 1), (0.7, 2), (0.8, 2), (0.95, 3), (1, 3)],
)
def test_the_cut_is_between_the_nearest_documents(share, count):
    assert nearest_cut(np.array([50, 30, 20]), share) == count


def test_a_weight_that_would_repeat_a_source_without_end_is_refused():
    sources = [SourceConfig(name=name, weight=weight) for name, weight in (("a", 1.0), ("b", 1e-12))]
    data = DataConfig(mix=["a", "b"], mix_stop="all")
    with pytest.raises(ValueError, match=r"would go 1e\+12 times over a; raise the smallest weight"):
        mixture_of(np.array([100, 100]), sources, data)
    limited = [replace(source, max_passes=3.0) for source in sources]
    assert mixture_of(np.array([100, 100]), limited, data).passes.tolist() == [3, 1]
