"""The rules about data, on configurations made by hand."""

from dataclasses import replace

import pytest

from medtune.config.data_checks import data_problems
from medtune.config.schema import Config, DataConfig, FilterConfig, TrainerConfig

SOUND = DataConfig(name="toy", dir="toy", splits={"train": "t.json"}, format="pair")
TWO = {"a": {"splits": {"train": "a"}}, "b": {"splits": {"train": "b"}}}


def problems_of(data, **values):
    return list(data_problems(Config(data=data, **values)))


def mix_of(a=None, b=None, **values):
    sources = {"a": {**TWO["a"], **(a or {})}, "b": {**TWO["b"], **(b or {})}}
    return DataConfig(name="mix", mix=["a", "b"], sources=sources, **values)


def test_sound_data_has_no_problems():
    assert problems_of(SOUND) == []
    assert problems_of(mix_of()) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        pytest.param({"validation_size": 1.5}, "data.validation_size=1.5 must be a share", id="size"),
        pytest.param({"validation_size": 0.0}, "data.validation_size=0.0 must be a share", id="no_share"),
        pytest.param(
            {"validation_size": 0.1, "splits": {"train": "t", "validation": "v"}},
            "data.validation_size=0.1, but there is a validation split already (data.splits.validation=v)",
            id="two_validations",
        ),
        pytest.param({"max_tokens": 0}, "data.max_tokens=0 must be at least 1", id="cap"),
        pytest.param({"subset": "x"}, "data.subset=x belongs to a hub data set", id="subset"),
        pytest.param({"streaming": True}, "data.streaming=true reads a hub data set", id="streaming"),
        pytest.param({"roles": {"doctor": "asistant"}}, "did you mean assistant", id="role"),
        pytest.param(
            {"filter": FilterConfig(min_chars=9, max_chars=3)},
            "data.filter.min_chars=9 is above data.filter.max_chars=3",
            id="filter_bounds",
        ),
        pytest.param(
            {"filter": FilterConfig(min_language_share=2)},
            "min_language_share=2 must be from 0 to 1",
            id="share",
        ),
        pytest.param({"format": "text"}, "(data.format=text) has none; set objective=pretrain", id="text"),
        pytest.param({"overlong": "split"}, "data.overlong=split cuts a text into several", id="split"),
        pytest.param({"packing": "concat"}, "data.packing=concat cuts rows anywhere", id="concat"),
        pytest.param({"objective": "sft"}, "a data set alone follows the run's objective", id="objective"),
        pytest.param({"splits": {}}, "task=train needs data.splits.train=FILE", id="no_train"),
        pytest.param(
            {"eval_splits": ["trian"]}, "data.eval_splits=[trian]: data=toy has train", id="eval_split"
        ),
        pytest.param({"dedup_threshold": 1.5}, "data.dedup_threshold=1.5 must be above 0", id="threshold"),
        pytest.param({"global_batch_tokens": 100}, "less than one row", id="batch_tokens"),
    ],
)
def test_a_data_set_that_cannot_work_is_refused(values, problem):
    found = problems_of(replace(SOUND, **values))
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(
            mix_of({"weight": -1.0}, {"weight": 1.0}), "data.sources.a.weight=-1.0 must be", id="negative"
        ),
        pytest.param(mix_of({"weight": float("nan")}, {"weight": 1.0}), "a.weight=nan must be", id="nan"),
        pytest.param(mix_of({"weight": 0.0}, {"weight": 0.0}), "every weight of the mix is 0", id="all_zero"),
        pytest.param(mix_of({"weight": 1.0}), "some sources of the mix have a weight, b none", id="some"),
        pytest.param(
            mix_of(mix_temperature=0.0), "data.mix_temperature=0.0 must be above 0", id="temperature"
        ),
        pytest.param(mix_of(mix_stop="steps"), "set trainer.max_steps=N", id="steps"),
        pytest.param(mix_of({"wieght": 1}), "did you mean data.sources.a.weight", id="key"),
        pytest.param(
            mix_of({"objective": "rlhf"}), "data.sources.a.objective=rlhf is none of", id="objective"
        ),
        pytest.param(replace(mix_of(), mix=["a", "a"]), "names a twice", id="twice"),
        pytest.param(mix_of(eval_splits=["a/test"]), "data=mix has a/train, b/train", id="eval_split"),
    ],
)
def test_a_mix_that_cannot_work_is_refused(data, problem):
    found = problems_of(data)
    assert len(found) == 1
    assert problem in found[0]


def test_texts_in_a_mix_are_learned_whole():
    assert problems_of(mix_of({"format": "text", "overlong": "split"})) == []
    assert problems_of(mix_of({"format": "text", "objective": "sft"})) != []


def test_a_mix_over_steps_may_be_prepared_once_they_are_known():
    data = mix_of(mix_stop="steps")
    assert problems_of(data, trainer=TrainerConfig(max_steps=10)) == []
