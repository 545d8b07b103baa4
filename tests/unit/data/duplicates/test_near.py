"""Near duplicates: sets, signatures, and what is found against a comparison of all pairs."""

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.data.duplicates import near
from medtune.data.duplicates.near import SimilarPairs, drop_greedily, find_near_duplicates
from medtune.data.duplicates.shingles import TemporaryArray, hash_shingles
from medtune.data.duplicates.signatures import NUM_BINS, band_rows, minhash, share_found

ALPHABET = [chr(0x4E00 + number) for number in range(2500)]


def grams(text):
    """The set by its definition."""
    return {text[start : start + 5] for start in range(max(1, len(text) - 4))} if text else set()


def jaccard(a, b):
    return len(grams(a) & grams(b)) / max(1, len(grams(a) | grams(b)))


def some_text(rng, length):
    return "".join(rng.choices(ALPHABET, k=length))


def edited(rng, text, edits):
    """``text`` after some characters were replaced, taken out or put in."""
    characters = list(text)
    for _ in range(edits):
        place = rng.randrange(len(characters))
        kind = rng.randrange(3)
        characters[place : place + (kind < 2)] = [] if kind == 1 else rng.choices(ALPHABET)
    return "".join(characters)


def found(texts, tmp_path, threshold=0.7, sources=None, held_out=(), removes=False):
    sources = [len(texts) - sum(held_out)] if sources is None else sources
    return find_near_duplicates(
        iter(texts), sources, held_out, threshold, removes_contaminated=removes, folder=tmp_path
    )


def dropped(texts, tmp_path, **options):
    """Dropped document to the kept one."""
    pairs = found(texts, tmp_path, **options).dropped
    return dict(zip(pairs.second.tolist(), pairs.first.tolist(), strict=True))


@pytest.mark.parametrize(
    ("texts", "sizes"),
    [
        pytest.param([], [], id="none"),
        pytest.param(["", "a", "abcd", "abcde", "abcdef"], [0, 1, 1, 1, 2], id="short"),
        pytest.param(["aaaaaaaa", "abcdeabcde"], [1, 6 - 1], id="repeated_grams_count_once"),
        pytest.param(["\ud800bcde", "😀😀😀😀😀"], [1, 1], id="beyond_the_basic_plane"),
    ],
)
def test_a_set_holds_every_gram_once(texts, sizes):
    members, counted = hash_shingles(texts)
    assert counted.tolist() == sizes
    assert len(members) == sum(sizes)


@given(st.lists(st.text("ab\n中", max_size=12), max_size=6))
def test_a_set_is_that_of_the_text_alone_and_equal_grams_have_equal_hashes(texts):
    members, sizes = hash_shingles(texts)
    ends = np.cumsum(sizes)
    for text, start, end in zip(texts, ends - sizes, ends, strict=True):
        alone, _ = hash_shingles([text])
        assert members[start:end].tolist() == alone.tolist() == sorted(set(alone.tolist()))
        assert end - start == len(grams(text))


@pytest.mark.parametrize("size", [8, 60, 400], ids=["sparse", "half_filled", "full"])
def test_equal_values_of_signatures_estimate_the_similarity(size):
    """Shrivastava 2017: unbiased, also where most bins had to borrow."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(300):
        distinct = np.unique(rng.integers(0, 2**32, 6 * size))  # a few are drawn twice
        union = rng.permutation(distinct.astype(np.uint32))[: 5 * size]
        sets = np.concatenate([np.sort(union[: 4 * size]), np.sort(union[size:])])
        first, second = minhash(sets, np.array([4 * size, 4 * size]))
        errors.append((first == second).mean() - 3 / 5)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.95])
def test_bands_find_what_is_as_similar_as_the_threshold(threshold):
    rows = band_rows(threshold)
    assert share_found(threshold, rows) >= 0.95
    assert rows == 31 + 1 or share_found(threshold, rows + 1) < 0.95
    assert NUM_BINS // rows >= 1


@pytest.fixture(scope="module")
def planted():
    """Random texts and copies of them with more and more edits, in random order."""
    rng = random.Random(3)
    texts = []
    for _ in range(100):
        original = some_text(rng, rng.randint(6, 200))
        texts.append(original)
        texts += [edited(rng, original, edits) for edits in rng.sample(range(1, 16), 2)]
    rng.shuffle(texts)
    return texts


@pytest.fixture(scope="module")
def similarities(planted):
    """Every pair that is similar at all, by the definition."""
    sets = [grams(text) for text in planted]
    pairs = {}
    for first, second in combinations(range(len(sets)), 2):
        if common := len(sets[first] & sets[second]):
            pairs[first, second] = common / (len(sets[first]) + len(sets[second]) - common)
    return pairs


@pytest.mark.parametrize(("threshold", "least"), [(0.5, 60), (0.7, 30), (0.9, 5)])
def test_found_against_all_pairs(planted, similarities, tmp_path, threshold, least):
    similar = {pair for pair, similarity in similarities.items() if similarity >= threshold}
    pairs = found(planted, tmp_path, threshold).dropped
    reported = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert reported <= similar
    for first, second, similarity in zip(pairs.first, pairs.second, pairs.similarity, strict=True):
        assert similarity == pytest.approx(similarities[first, second], abs=1e-6)
    gone = {second for _, second in reported}
    assert not gone & {first for first, _ in reported}, "a document was dropped for one that is not kept"
    due = {second for first, second in similar if first not in gone}
    assert len(due) >= least
    assert len(due & gone) >= 0.93 * len(due)


def test_the_same_texts_give_the_same_pairs(planted, tmp_path):
    first, second = (found(planted, tmp_path).dropped for _ in range(2))
    assert first.second.tolist() == second.second.tolist()
    assert first.similarity.tolist() == second.similarity.tolist()


def test_a_document_is_dropped_for_a_kept_one_only(tmp_path):
    """a is similar to b and b to c, but a is not to c: b goes, c stays."""
    rng = random.Random(0)
    base = some_text(rng, 124)
    a, b, c = base[:100], base[12:112], base[24:124]
    assert jaccard(a, b) > 0.7
    assert jaccard(b, c) > 0.7
    assert jaccard(a, c) < 0.7
    assert dropped([a, b, c], tmp_path) == {1: 0}
    assert dropped([b, a, c], tmp_path) == {1: 0, 2: 0}
    assert dropped([a, c, b], tmp_path) == {2: 0}


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30), st.integers(0, 2**12 - 1))
def test_the_greedy_choice_is_that_of_a_loop(edges, mask):
    alive = np.array([bool(mask >> bit & 1) for bit in range(12)])
    edges = sorted({(min(edge), max(edge)) for edge in edges if len(set(edge)) == 2})
    first, second = (np.array([edge[side] for edge in edges], dtype=np.int64) for side in (0, 1))
    pairs, left = drop_greedily(SimilarPairs(first, second, np.ones(len(edges), np.float32)), alive)
    kept: list[int] = []
    for document in np.flatnonzero(alive).tolist():
        if not any((earlier, document) in edges for earlier in kept):
            kept.append(document)
    assert left.tolist() == kept
    assert sorted(pairs.second.tolist()) == sorted(set(np.flatnonzero(alive).tolist()) - set(kept))
    assert set(pairs.first.tolist()) <= set(kept)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        pytest.param([], {}, id="none"),
        pytest.param([""], {}, id="one_empty"),
        pytest.param(["", ""], {}, id="nothing_is_not_similar_to_nothing"),
        pytest.param(["ab", "ab", "abc", "b"], {1: 0}, id="shorter_than_a_gram"),
        pytest.param(["abcde", "abcdf", "abcde"], {2: 0}, id="a_single_gram"),
        pytest.param(["a" * 50, "a" * 70], {1: 0}, id="one_gram_repeated"),
    ],
)
def test_small_texts(texts, expected, tmp_path):
    assert dropped(texts, tmp_path) == expected


def test_a_long_document_is_compared_too(tmp_path):
    """Five megabytes of UTF-8; the copy lacks a tenth at its end."""
    rng = random.Random(1)
    long = some_text(rng, 1_700_000)
    pairs = found([long, some_text(rng, 1000), long[:1_530_000]], tmp_path).dropped
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [2])
    assert pairs.similarity[0] == pytest.approx(0.9, abs=1e-3)


def test_copies_of_one_text_are_compared_with_the_first_only(tmp_path, monkeypatch):
    """All pairs would be two hundred million."""
    count = 20_000
    compared = []
    verify = near.Comparison.similar

    def counting(self, first, second):
        compared.append(len(first))
        return verify(self, first, second)

    monkeypatch.setattr(near.Comparison, "similar", counting)
    assert set(dropped(["高血压患者应当低盐饮食"] * count, tmp_path).values()) == {0}
    assert sum(compared) == count - 1


def skeleton_records(rng, count):
    """Records of one template, four fifths of their characters, around different sentences."""
    before, after = some_text(rng, 60), some_text(rng, 60)
    return [f"{before}{some_text(rng, 15)}{after}" for _ in range(count)]


def test_records_that_share_a_template_only_stay(tmp_path):
    rng = random.Random(2)
    records = skeleton_records(rng, 400)
    assert jaccard(records[0], records[1]) > 0.7
    assert dropped(records, tmp_path) == {}


@pytest.mark.parametrize("place", [5, 67, 110], ids=["template", "sentence", "end_of_template"])
def test_near_copies_of_records_in_a_template_go(place, tmp_path):
    rng = random.Random(2)
    records = skeleton_records(rng, 400)
    copies = [record[:place] + rng.choice(ALPHABET) + record[place + 1 :] for record in records[::8]]
    # A change in the middle of the sentence leaves half of its 5-grams: 5 of 19, and too little is shared.
    gone = dropped(records + copies, tmp_path)
    assert set(gone) <= set(range(400, 450))
    assert all(gone[copy] == 8 * (copy - 400) for copy in gone)
    assert len(gone) >= 47


def test_a_template_without_content_is_found_however_often_it_is_there(tmp_path):
    """Every 5-gram of it is in very many documents: what would be left is too little to compare."""
    rng = random.Random(4)
    template = some_text(rng, 120)
    texts = [f"{template}{number}" for number in range(2000)]
    assert len(dropped(texts, tmp_path)) == 1999


def test_few_records_in_a_template_are_similar_as_they_are(tmp_path):
    """Below fifty nothing tells a template from copies."""
    assert len(dropped(skeleton_records(random.Random(2), 20), tmp_path)) == 19


def test_what_is_frequent_in_one_source_is_so_in_another(tmp_path, monkeypatch):
    monkeypatch.setattr(near, "SKELETON_SHARE", 0.05)
    rng = random.Random(5)
    records = skeleton_records(rng, 300)
    copies = [edited(rng, records[0], 1), *records[1:3]]
    assert dropped([*records, *copies], tmp_path, sources=[300, 3]) == {300: 0, 301: 1, 302: 2}
    others = [some_text(rng, 20) for _ in range(7000)]
    assert dropped([*others, *records], tmp_path, sources=[7000, 300]) == {}
    assert dropped([*records, *others], tmp_path, sources=[300, 7000]) == {}
    # Of 7300 documents of one source 365 must share a 5-gram before it is skeleton.
    assert len(dropped([*others, *records], tmp_path, sources=[7300])) >= 298


@pytest.mark.parametrize("removes", [False, True], ids=["report", "remove"])
def test_documents_similar_to_held_out_ones(removes, tmp_path):
    rng = random.Random(6)
    texts = [some_text(rng, 80) for _ in range(6)]
    held_out = [
        edited(rng, texts[1], 1),
        edited(rng, texts[1], 1),
        edited(rng, texts[4], 1),
        some_text(rng, 80),
    ]
    texts.append(edited(rng, texts[1], 1))
    result = found([*texts, *held_out], tmp_path, held_out=[1, 3], removes=removes)
    pairs = set(zip(result.contaminated.first.tolist(), result.contaminated.second.tolist(), strict=True))
    # One pair for each list: of two similar ones in the second list the first.
    assert pairs == {(1, 7), (1, 8), (4, 9), (6, 7), (6, 8)}
    # What is removed is no original: document 6 is similar to 1.
    assert result.dropped.second.tolist() == ([] if removes else [6])


def test_texts_that_do_not_come_again_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"data\.dedup=near: 2 texts were read again for 3 documents"):
        find_near_duplicates(
            iter(["abcdefg", "hijklmn"]), [3], [], 0.7, removes_contaminated=False, folder=tmp_path
        )


def test_nothing_is_left_in_the_folder(planted, tmp_path):
    found(planted, tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write .*file"):
        TemporaryArray(tmp_path / "file", np.uint32)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([0.5, 0.7, 0.85]))
def test_every_drop_is_verified_and_every_keeper_kept(tmp_path_factory, rng, threshold):
    texts = [some_text(rng, rng.randint(0, 40)) for _ in range(8)]
    texts += [edited(rng, rng.choice(texts) + "xyz", rng.randint(1, 3)) for _ in range(25)]
    pairs = found(texts, tmp_path_factory.mktemp("near"), threshold).dropped
    assert not set(pairs.first.tolist()) & set(pairs.second.tolist())
    assert (pairs.first < pairs.second).all()
    for first, second in zip(pairs.first, pairs.second, strict=True):
        assert jaccard(texts[first], texts[second]) >= threshold
