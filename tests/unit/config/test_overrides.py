"""The command line by itself: one sentence for each mistake, and what Hydra gets to see of the rest."""

import pytest

from medtune.config.overrides import group_options, read_command_line, single_values, typed_keys

GROUPS = {
    "model": ["tiny", "baichuan13b"],
    "data": ["promptcblue", "sample"],
    "logger": ["jsonl", "wandb"],
    "optim": ["adamw", "sgd"],
    "experiment": ["bgi"],
}


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        pytest.param(
            "optim.lrr=1",
            "optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?",
            id="letter_too_many",
        ),
        pytest.param("lr=1", "lr=1: there is no key lr; did you mean optim.lr?", id="section_left_out"),
        pytest.param(
            "learning_rate=1",
            "learning_rate=1: there is no key learning_rate; did you mean optim.lr?",
            id="name_of_other_trainers",
        ),
        pytest.param(
            "+optim.lrr=1", "+optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?", id="after_plus"
        ),
        pytest.param(
            "++optim.lrr=1",
            "++optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?",
            id="after_two_plus",
        ),
        pytest.param("+xyzzy=1", "+xyzzy=1: there is no key xyzzy", id="nothing_near"),
        pytest.param(
            "modle=tiny", "modle=tiny: there is no key modle; did you mean model?", id="group_misspelt"
        ),
        pytest.param(
            "data=promtcblue",
            "data=promtcblue is none of promptcblue, sample; did you mean data=promptcblue?",
            id="option_misspelt",
        ),
        pytest.param("model=gpt", "model=gpt is none of tiny, baichuan13b", id="option_unknown"),
        pytest.param(
            "logger=[wandb,jsnl]",
            "logger=jsnl is none of jsonl, wandb; did you mean logger=jsonl?",
            id="one_of_several_options",
        ),
        pytest.param(
            "data=[promptcblue,sample]",
            "data=[promptcblue,sample]: data takes one option: promptcblue, sample",
            id="several_options_of_one",
        ),
        pytest.param("optim.lr=fast", "optim.lr=fast is not a number", id="text_for_number"),
        pytest.param(
            "trainer.devices=auto", "trainer.devices=auto is not a whole number or null", id="auto_devices"
        ),
        pytest.param("optim.betas=[1,x]", "optim.betas=[1,x] is not a list of numbers", id="list_member"),
        pytest.param("optim.betas=[0.9", "optim.betas=[0.9 is not a list of numbers", id="list_not_closed"),
        pytest.param("optim.betas=0.9", "optim.betas=0.9 is not a list of numbers", id="number_for_list"),
        pytest.param(
            "data.splits=3", "data.splits=3 is not a mapping of names to values", id="number_for_mapping"
        ),
        pytest.param(
            "trainer.precision=bf16",
            "trainer.precision=bf16 is none of 32-true, bf16-mixed, bf16-true, 16-mixed; "
            "did you mean trainer.precision=bf16-true?",
            id="no_such_precision",
        ),
        pytest.param(
            "eval=false",
            "eval=false: eval is a section; "
            "its keys are eval.after_fit, eval.limit, eval.trivial, eval.untrained, "
            "eval.every_n_steps, eval.split, eval.tasks, eval.limit_per_task",
            id="section_as_key",
        ),
        pytest.param(
            "promptcblue", "promptcblue: a setting is KEY=VALUE; did you mean data=promptcblue?", id="no_key"
        ),
        pytest.param("--lr", "--lr: a setting is KEY=VALUE, without dashes", id="an_option"),
        pytest.param(
            "--optim.lr=1",
            "--optim.lr=1: a setting is KEY=VALUE, without dashes; did you mean optim.lr=1?",
            id="an_option_with_a_value",
        ),
        pytest.param(
            "~optim.lr", "~optim.lr: a key cannot be removed, only set: optim.lr=VALUE", id="removed_key"
        ),
        pytest.param(
            "optim.lr=1e-5,2e-5",
            "optim.lr=1e-5,2e-5 gives several values: add -m to run a trial for each, "
            "or write one list: optim.lr=[1e-5,2e-5]",
            id="sweep_without_m",
        ),
        pytest.param(
            "model=tiny,baichuan13b",
            "model=tiny,baichuan13b gives several values: add -m to run a trial for each, "
            "or write one list: model=[tiny,baichuan13b]",
            id="group_sweep_without_m",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence(typed, problem):
    line = read_command_line([typed], GROUPS, multirun=False)
    assert line.problems == [problem]
    assert line.accepted == []


@pytest.mark.parametrize(
    ("typed", "passed_on"),
    [
        pytest.param("optim.lr=1e-3", "optim.lr=1e-3", id="plain"),
        pytest.param("+optim.lr=1e-3", "optim.lr=1e-3", id="needless_plus"),
        pytest.param("+experiment=bgi", "experiment=bgi", id="needless_plus_at_a_group"),
        pytest.param("experiment=null", "experiment=null", id="no_option"),
        pytest.param("strategy.overlap_comm=true", "++strategy.overlap_comm=true", id="open_node"),
        pytest.param("+strategy.overlap_comm=true", "++strategy.overlap_comm=true", id="open_node_plus"),
        pytest.param("trainer.extra.profiler=simple", "++trainer.extra.profiler=simple", id="trainer_extra"),
        pytest.param("data.splits.test=x.json", "++data.splits.test=x.json", id="new_split"),
        pytest.param("~logger.wandb", "~logger.wandb", id="open_node_removed"),
        pytest.param("name='a,b'", "name='a,b'", id="quoted"),
        pytest.param("run_dir=${project:x}", "run_dir=${project:x}", id="interpolation"),
        pytest.param(
            "seed=${trainer.devices}", "seed=${trainer.devices}", id="interpolation_of_another_type"
        ),
        pytest.param("trainer.max_steps=null", "trainer.max_steps=null", id="null"),
        pytest.param("name=3", "name=3", id="number_as_name"),
        pytest.param("name=糖尿病", "name='糖尿病'", id="chinese"),
        pytest.param("tags=[糖尿病,a]", "tags=['糖尿病',a]", id="chinese_in_a_list"),
        pytest.param(
            "template.prompt=请回答：{prompt}",
            "template.prompt=['请回答：{prompt}']",
            id="chinese_around_braces",
        ),
        pytest.param("data.dir=/data (new)/x", "data.dir='/data (new)/x'", id="signs"),
        pytest.param("name=it's", "name='it\\'s'", id="apostrophe"),
        pytest.param("template.prompt=a\nb{prompt}", "template.prompt=['a\nb{prompt}']", id="line_break"),
        pytest.param("hydra.verbose=true", "hydra.verbose=true", id="hydras_own"),
        pytest.param("hydra/launcher=basic", "hydra/launcher=basic", id="hydras_own_group"),
    ],
)
def test_hydra_sees_what_was_meant(typed, passed_on):
    line = read_command_line([typed], GROUPS, multirun=False)
    assert (line.problems, line.accepted) == ([], [passed_on])


def test_each_value_of_a_sweep_is_checked():
    line = read_command_line(["optim.lr=1,x", "model=tiny,tinny", "seed=1,2"], GROUPS, multirun=True)
    assert line.problems == [
        "optim.lr=x is not a number",
        "model=tinny is none of tiny, baichuan13b; did you mean model=tiny?",
    ]
    assert line.swept == ["seed"]


def test_chinese_values_are_swept_one_by_one():
    line = read_command_line(["template.name=中,文"], GROUPS, multirun=True)
    assert (line.problems, line.swept) == ([], ["template.name"])
    assert single_values(line.accepted) == ["template.name='中'"]


def test_one_value_of_each_sweep():
    overrides = ["seed=1,2", "model=tiny,baichuan13b", "++strategy.stage=1,2", "optim.lr=3"]
    assert single_values(overrides) == ["seed=1", "model=tiny", "++strategy.stage=1", "optim.lr=3"]
    assert single_values(overrides, last=True)[:3] == ["seed=2", "model=baichuan13b", "++strategy.stage=2"]


def test_a_range_of_numbers_is_a_sweep_and_an_interval_has_no_first_value():
    assert single_values(["seed=range(1,4)", "optim.lr=interval(0,1)"]) == ["seed=1"]


def test_what_was_typed_is_told_without_hydras_own():
    assert typed_keys(["++strategy.stage=1", "model=tiny", "hydra.verbose=true"]) == [
        "strategy.stage",
        "model",
    ]


def test_a_folder_of_ones_own_options_joins_conf(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").touch()
    options = group_options(tmp_path)["model"]
    assert {"mine", "tiny"} <= set(options)
