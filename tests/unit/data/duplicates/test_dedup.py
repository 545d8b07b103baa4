"""Duplicates within and across sources, and training examples in held-out splits."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtune.config.schema import DataConfig
from medtune.data.duplicates.dedup import NOTHING, mark_duplicates, match_content, match_values
from medtune.data.duplicates.held_out import fingerprints_of_split, fingerprints_of_store
from medtune.data.duplicates.shingles import hash_shingles
from medtune.data.fates import Fate
from medtune.data.tokens.content import fingerprint
from tests.unit.data.made_sources import make_source, make_split, texts_of

KEPT, DUPLICATE, NEAR = Fate.KEPT, Fate.DUPLICATE, Fate.NEAR_DUPLICATE
CONTAMINATED, VALIDATION = Fate.CONTAMINATED, Fate.VALIDATION
LONG = "慢性胃炎患者应当规律饮食，避免辛辣刺激的食物，少食多餐，戒烟限酒，必要时口服抑酸药物，并定期复查胃镜"
NEARLY = LONG.replace("少食多餐", "少吃多餐")


def mark(parts, tmp_path, held_out=None, texts=texts_of, **settings):
    data = DataConfig(**settings)
    return mark_duplicates(parts, data, held_out or {}, texts, tmp_path / "cache")


def parts_of(tmp_path, **sources):
    return [
        make_split(make_source(tmp_path, name, train=records), "train") for name, records in sources.items()
    ]


def fates(parts):
    return [[Fate(fate) for fate in part.fates] for part in parts]


def no_texts(part):
    raise AssertionError(f"{part.name} was read again")


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        pytest.param({"a": [("q", "r"), ("q", "r"), ("q", "s")]}, [[KEPT, DUPLICATE, KEPT]], id="within"),
        pytest.param(
            {"a": [("q", "r")], "b": [("x", "y"), ("q", "r")]}, [[KEPT], [KEPT, DUPLICATE]], id="across"
        ),
        pytest.param({"a": [("高血压？", "是"), ("高血压?", " 是 ")]}, [[KEPT, DUPLICATE]], id="other_forms"),
        pytest.param({"a": [("q", "r")] * 4}, [[KEPT, *[DUPLICATE] * 3]], id="all_equal"),
        pytest.param({"a": [("qr", "s"), ("q", "rs")]}, [[KEPT, KEPT]], id="a_turn_is_a_border"),
    ],
)
@pytest.mark.parametrize("dedup", ["exact", "near"])
def test_equal_documents(sources, expected, dedup, tmp_path):
    parts = parts_of(tmp_path, **sources)
    mark(parts, tmp_path, dedup=dedup)
    assert fates(parts) == expected


def test_nothing_is_dropped_or_read_unless_asked(tmp_path):
    parts = parts_of(tmp_path, a=[("q", "r"), ("q", "r")])
    report = mark(parts, tmp_path, texts=no_texts)
    assert fates(parts) == [[KEPT, KEPT]]
    assert report.as_dict() == {
        "dedup": "none", "contaminated": "reported", "sources": {"a": {"kept": 2}}, "contamination": [],
        "pairs": 0,
    }  # fmt: skip
    assert not (tmp_path / "cache").exists()


def test_what_is_not_kept_is_no_original(tmp_path):
    """A held-out document is another split's; what is compared with it is the caller's to say."""
    parts = parts_of(tmp_path, a=[("q", "r"), ("q", "r"), ("q", "r")])
    parts[0].fates[0] = VALIDATION
    mark(parts, tmp_path, dedup="exact")
    assert fates(parts) == [[VALIDATION, KEPT, DUPLICATE]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), min_size=1, max_size=3),
    st.randoms(use_true_random=False),
)
def test_one_of_each_content_stays_in_any_order(tmp_path_factory, sources, rng):
    def surviving(sources):
        folder = tmp_path_factory.mktemp("sources")
        names = "xyz"[: len(sources)]
        parts = parts_of(
            folder,
            **{name: [(word, word) for word in words] for name, words in zip(names, sources, strict=True)},
        )
        mark(parts, folder, dedup="exact")
        kept = [
            words[index]
            for words, part in zip(sources, parts, strict=True)
            for index in np.flatnonzero(part.fates == KEPT)
        ]
        assert sorted(kept) == sorted({word for words in sources for word in words})
        first_seen = dict.fromkeys(word for words in sources for word in words)
        assert kept == [*first_seen]
        return set(kept)

    shuffled = [rng.sample(words, len(words)) for words in rng.sample(sources, len(sources))]
    assert surviving(sources) == surviving(shuffled)


def test_near_duplicates_within_and_across_sources(tmp_path):
    parts = parts_of(tmp_path, a=[(LONG, "好"), ("别的", "好")], b=[(NEARLY, "好"), (LONG, "好")])
    report = mark(parts, tmp_path, dedup="near")
    assert fates(parts) == [[KEPT, KEPT], [NEAR, DUPLICATE]]
    assert report.as_dict()["sources"] == {"a": {"kept": 2}, "b": {"duplicate": 1, "near_duplicate": 1}}


@pytest.mark.parametrize(("threshold", "expected"), [(0.6, NEAR), (0.9, KEPT)])
def test_the_threshold_decides(threshold, expected, tmp_path):
    parts = parts_of(tmp_path, a=[(LONG, "好"), (NEARLY, "好")])
    mark(parts, tmp_path, dedup="near", dedup_threshold=threshold)
    assert fates(parts) == [[KEPT, expected]]


@pytest.fixture
def held(tmp_path):
    """A test split without answers, and a validation split that is tokenised."""
    source = make_source(
        tmp_path, "held", test=[("头痛怎么办", ""), (LONG, "")], validation=[("咳嗽", "喝水")]
    )
    validation = make_split(source, "validation")
    return {
        "test": fingerprints_of_split(source, "test", tmp_path / "cache"),
        "validation": fingerprints_of_store(validation.store, texts=lambda: texts_of(validation)),
    }


TRAINING = {
    "a": [("头痛怎么办", "休息"), ("头痛怎么办", "吃药"), ("咳嗽", "喝水"), ("咳嗽", "喝茶")],
    "b": [("发热", "多喝水"), (NEARLY, "是"), ("头痛怎么办", "休息")],
}


@pytest.mark.parametrize(
    ("dedup", "near"), [("none", [None] * 4), ("exact", [None] * 4), ("near", [0, 1, 0, 0])]
)
@pytest.mark.parametrize("contamination", ["report", "remove"])
def test_training_examples_in_held_out_splits(dedup, near, contamination, held, tmp_path):
    """The same question counts whatever its answer; duplicates are counted too."""
    parts = parts_of(tmp_path, **TRAINING)
    report = mark(parts, tmp_path, held, dedup=dedup, contamination=contamination)
    found = [(entry.source, entry.split, entry.exact, entry.near) for entry in report.contamination]
    assert found == [
        ("a", "test", 2, near[0]), ("b", "test", 1, near[1]),
        ("a", "validation", 2, near[2]), ("b", "validation", 0, near[3]),
    ]  # fmt: skip
    if contamination == "remove":
        similar = CONTAMINATED if dedup == "near" else KEPT
        assert fates(parts) == [[CONTAMINATED] * 4, [KEPT, similar, CONTAMINATED]]
    else:
        assert fates(parts) == [[KEPT] * 4, [KEPT, KEPT, KEPT if dedup == "none" else DUPLICATE]]


def test_an_empty_question_is_no_sign_of_contamination():
    asked = np.frombuffer(fingerprint("") + fingerprint("问"), dtype=np.uint64)[[0, 2]]
    assert match_values(asked, asked, ignored=NOTHING[0]).tolist() == [-1, 1]
    content = np.frombuffer(fingerprint("") + fingerprint("问"), dtype=np.uint64).reshape(-1, 2)
    assert match_content(content, content).tolist() == [-1, 1]


def test_a_split_that_cannot_be_read_again_is_compared_by_fingerprints_only(tmp_path):
    parts = parts_of(tmp_path, a=[(LONG, "好"), (NEARLY, "好")])
    held = {"test": fingerprints_of_store(parts_of(tmp_path, h=[(LONG, "坏")])[0].store)}
    (entry,) = mark(parts, tmp_path, held, dedup="near").contamination
    assert (entry.exact, entry.near) == (1, None)


def test_halves_of_fingerprints_are_compared_both():
    content = np.array([[1, 1], [1, 2], [3, 1], [5, 5]], dtype=np.uint64)
    held = np.array([[5, 5], [1, 2], [1, 2]], dtype=np.uint64)
    assert match_content(content, held).tolist() == [-1, 1, -1, 0]
    assert match_content(content, held[:0]).tolist() == [-1] * 4


def read_pairs(report):
    return [json.loads(json.dumps(row)) for row in report.rows()]


@pytest.mark.parametrize("contamination", ["report", "remove"])
def test_the_pairs_are_listed(contamination, held, tmp_path):
    parts = parts_of(
        tmp_path, a=[("咳嗽", "喝茶"), (LONG + "吗", "好")], b=[(LONG + "吗", "好"), (NEARLY + "吗", "好")]
    )
    del held["test"]
    report = mark(parts, tmp_path, held, dedup="near", contamination=contamination)
    a, b, test = (str(tmp_path / f"{name}.jsonl") for name in ("a-train", "b-train", "held-validation"))
    members, sizes = hash_shingles([f"{text}吗\n好".replace("，", ",") for text in (LONG, NEARLY)])
    common = len(np.intersect1d(members[: sizes[0]], members[sizes[0] :]))
    stays = contamination == "report"
    assert read_pairs(report) == [
        {"held_out" if stays else "kept": f"{test}:1", "kept" if stays else "dropped": f"{a}:1",
         "kind": "contaminated", "similarity": 1.0},
        {"kept": f"{a}:2", "dropped": f"{b}:1", "kind": "exact", "similarity": 1.0},
        {"kept": f"{a}:2", "dropped": f"{b}:2", "kind": "near",
         "similarity": round(common / (sizes.sum() - common), 4)},
    ]  # fmt: skip


def test_no_pairs_make_an_empty_file(tmp_path):
    report = mark(parts_of(tmp_path, a=[("q", "r")]), tmp_path, dedup="near")
    assert len(report.pairs) == 0
    assert read_pairs(report) == []


def random_parts(tmp_path, count=60):
    rng = random.Random(0)
    words = ["".join(rng.choices(LONG + "心肺肝肾脾", k=rng.randint(3, 60))) for _ in range(count)]
    words += [word[:-1] + "变" for word in words[::3]]
    return parts_of(
        tmp_path, a=[(word, "好") for word in words[:50]], b=[(word, "好") for word in words[50:]]
    )


def test_a_search_is_done_once(tmp_path, held):
    first, second = random_parts(tmp_path), random_parts(tmp_path)
    before = mark(first, tmp_path, held, dedup="near")
    after = mark(second, tmp_path, held, dedup="near", texts=no_texts, packing="concat", sequence_length=77)
    assert fates(first) == fates(second)
    assert sum(fate == NEAR for fate in fates(first)[1]) >= 10
    assert before.as_dict() == after.as_dict()
    assert read_pairs(before) == read_pairs(after)


@pytest.mark.parametrize("changed", ["threshold", "contamination", "kept", "held_out", "order"])
def test_a_search_among_others_is_another(changed, tmp_path, held):
    mark(random_parts(tmp_path), tmp_path, held, dedup="near")
    parts, options = random_parts(tmp_path), {"dedup": "near"}
    if changed == "threshold":
        options["dedup_threshold"] = 0.8
    elif changed == "contamination":
        options["contamination"] = "remove"
    elif changed == "kept":
        parts[0].fates[7] = VALIDATION
    elif changed == "held_out":
        test = held["test"]
        held["test"] = replace(test, content=test.content[:1], prompts=test.prompts[:1])
    else:
        parts.reverse()
    with pytest.raises(AssertionError, match="was read again"):
        mark(parts, tmp_path, held, texts=no_texts, **options)


def test_files_that_changed_meanwhile_are_told(tmp_path):
    parts = parts_of(tmp_path, a=[("q", "r"), ("s", "t")])
    with pytest.raises(ValueError, match=r"data\.dedup=near: 1 texts were read again for 2 documents"):
        mark(parts, tmp_path, dedup="near", texts=lambda part: iter(["q"]))


def test_a_store_without_documents(tmp_path):
    (part,) = parts_of(tmp_path, a=[("q", "r"), ("q", "r")])
    part.fates[:] = VALIDATION
    report = mark([part], tmp_path, dedup="near", texts=no_texts)
    assert report.as_dict()["sources"] == {"a": {"validation": 2}}
    assert mark([], tmp_path, dedup="near").as_dict()["sources"] == {}
