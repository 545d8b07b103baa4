import re
from dataclasses import replace

import pytest
import yaml

from medtune.config.load import config_from_dict, config_to_dict, load_config, show
from medtune.config.schema import Config, DataConfig, OptimConfig, TrainerConfig
from medtune.runtime.errors import ConfigError


def test_values_and_classes_are_each_others_inverse(tmp_path):
    config = Config(
        name="糖尿病",
        data=DataConfig(splits={"train": "a.json"}, eval_splits=["test"]),
        optim=OptimConfig(lr=2e-5, betas=[0.9, 0.999]),
        trainer=TrainerConfig(extra={"profiler": "simple", "limit": [1, {"a": None}]}),
        strategy={"_target_": "a.b", "stage": 3},
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(config), allow_unicode=True), encoding="utf-8")
    assert load_config(file) == config


def test_keys_left_out_keep_their_defaults():
    assert config_from_dict({"optim": {"lr": 1}}) == replace(Config(), optim=OptimConfig(lr=1.0))


def test_a_number_that_yaml_reads_as_text_is_a_number():
    """YAML 1.1 wants a dot in a float, so that ``2e-5`` is text."""
    assert yaml.safe_load("lr: 2e-5") == {"lr": "2e-5"}
    assert config_from_dict({"optim": {"lr": "2e-5"}}).optim.lr == 2e-5


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        pytest.param(
            {"optim": {"lrr": 1}},
            "optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?",
            id="unknown_key",
        ),
        pytest.param(
            {"optm": {"lr": 1}},
            "optm={lr:1}: there is no key optm; did you mean optim?",
            id="unknown_section",
        ),
        pytest.param(
            {"optim": 3}, "optim=3 is a section: its keys are set one by one", id="section_as_value"
        ),
        pytest.param({"seed": "x"}, "seed=x is not a whole number", id="text_for_whole_number"),
        pytest.param({"seed": 1.5}, "seed=1.5 is not a whole number", id="fraction_for_whole_number"),
        pytest.param({"seed": True}, "seed=true is not a whole number", id="truth_for_whole_number"),
        pytest.param({"seed": None}, "seed=null is not a whole number", id="null_where_it_means_nothing"),
        pytest.param({"optim": {"lr": False}}, "optim.lr=false is not a number", id="truth_for_number"),
        pytest.param({"optim": {"lr": [1]}}, "optim.lr=[1] is not a number", id="list_for_number"),
        pytest.param(
            {"template": {"chat": 1}}, "template.chat=1 is not true or false", id="number_for_truth"
        ),
        pytest.param({"name": 3}, "name=3 is not text", id="number_for_text"),
        pytest.param(
            {"trainer": {"max_steps": "many"}},
            "trainer.max_steps=many is not a whole number or null",
            id="optional_whole_number",
        ),
        pytest.param(
            {"optim": {"betas": [0.9, "x"]}}, "optim.betas=[0.9,x] is not a list of numbers", id="list_member"
        ),
        pytest.param({"tags": "a"}, "tags=a is not a list of names", id="text_for_list"),
        pytest.param(
            {"data": {"splits": {"train": 3}}},
            "data.splits={train:3} is not a mapping of names to values",
            id="mapping_member",
        ),
        pytest.param(
            {"data": {"packing": "bdf"}},
            "data.packing=bdf is none of bfd, concat, none; did you mean data.packing=bfd?",
            id="no_such_choice",
        ),
    ],
)
def test_what_the_schema_cannot_hold_is_refused(values, problem):
    with pytest.raises(ConfigError, match=re.escape(problem)) as refused:
        config_from_dict(values)
    assert refused.value.problems == [problem]


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError, match="optim.lrr") as refused:
        config_from_dict({"optim": {"lrr": 1, "lr": "x"}, "seed": "y", "data": {"columns": {"txt": "t"}}})
    assert sorted(refused.value.problems) == [
        "data.columns.txt=t: there is no key data.columns.txt; did you mean data.columns.text?",
        "optim.lr=x is not a number",
        "optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?",
        "seed=y is not a whole number",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "config.yaml is not there", id="no_file"),
        pytest.param("a: [", "config.yaml is not YAML", id="not_yaml"),
        pytest.param("", "config.yaml holds no settings", id="empty"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path, content, message):
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


@pytest.mark.parametrize(
    ("value", "typed"),
    [(None, "null"), (True, "true"), (1, "1"), ([1, None, "a"], "[1,null,a]"), ({"a": [True]}, "{a:[true]}")],
)
def test_values_are_shown_as_they_are_typed(value, typed):
    assert show(value) == typed
