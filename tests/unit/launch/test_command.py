"""Command lines as they are typed, up to the point where a worker would start."""

from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser

from medtune.config.compose import plain_settings
from medtune.config.load import config_from_dict
from medtune.config.resolvers import PROJECT
from medtune.data.reading.formats import Reader
from medtune.launch.command import hydra_options, main, make_plan, read_options
from medtune.runtime.errors import ConfigError

ZERO = "medtune.training.strategies.zero"


@pytest.fixture(autouse=True)
def _a_machine_without_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)


def problems_of(line: str) -> list[str]:
    with pytest.raises(ConfigError, match=".") as refused:
        make_plan(read_options(line.split()))
    return refused.value.problems


@pytest.mark.parametrize(
    ("line", "problems"),
    [
        pytest.param(
            "optim.lrr=1 +modle.x=2 data=promtcblue trainer.devices=auto",
            [
                "optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?",
                "+modle.x=2: there is no key modle.x",
                "data=promtcblue is none of ceval_medicine, cmb, cmexam, dataset_info, healthcaremagic_100k, "
                "icliniq_10k, local, medical_corpus, mix, msra_ner, promptcblue, sample, sample_corpus; "
                "did you mean data=promptcblue?",
                "trainer.devices=auto is not a whole number or null",
            ],
            id="typos",
        ),
        pytest.param(
            "strategy=zero3 strategy.stagee=2 strategy.overlap_com=true",
            [
                f"strategy.stagee=2: {ZERO} takes no stagee; did you mean strategy.stage?",
                f"strategy.overlap_com=true: {ZERO} takes no overlap_com; "
                "did you mean strategy.overlap_comm?",
            ],
            id="typos_in_an_open_node",
        ),
        pytest.param(
            "strategy=zero3 ~strategy.stage",
            [f"strategy.stage is missing: {ZERO} needs it", "strategy.stage=None must be 1, 2 or 3"],
            id="argument_missing",
        ),
        pytest.param(
            "logger=[wandb,tensorboard] logger.wandb.projct=x",
            [
                "logger.wandb.projct=x: medtune.training.loggers.wandb takes no projct; "
                "did you mean logger.wandb.project?"
            ],
            id="typo_in_a_logger",
        ),
        pytest.param(
            "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStoping",
            [
                "callbacks.stop._target_=lightning.pytorch.callbacks.EarlyStoping does not exist; "
                "did you mean lightning.pytorch.callbacks.EarlyStopping?"
            ],
            id="no_such_callback",
        ),
        pytest.param(
            "trainer.extra.fast_dev_runn=true",
            [
                "trainer.extra.fast_dev_runn=true: lightning.pytorch.Trainer takes no fast_dev_runn; "
                "did you mean trainer.extra.fast_dev_run?"
            ],
            id="typo_in_trainer_extra",
        ),
        pytest.param(
            "quantization=nf4 optim.lrr=1 trainer.num_nodes=2 "
            "data.micro_batch_size=1 data.global_batch_size=2",
            [
                "optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?",
                "trainer.num_nodes=2: launcher=local starts processes on this machine only; "
                "set trainer.num_nodes=1",
                "quantization=nf4 freezes the weights, so there is nothing to train; add adapter=lora",
            ],
            id="typo_and_broken_rules",
        ),
        pytest.param(
            "trainer.accelerator=cuda trainer.devices=3 data.micro_batch_size=1 data.global_batch_size=8",
            [
                "data.global_batch_size=8 is not a multiple of data.micro_batch_size * trainer.devices "
                "(1 * 3 = 3); the nearest is data.global_batch_size=9",
                "trainer.accelerator=cuda, but no GPU is visible here; set trainer.accelerator=cpu",
            ],
            id="devices",
        ),
        pytest.param(
            "eval.every_n_steps=5 eval.tasks=[MedDGG,CHIP-STS] eval.split=validaton",
            [
                "eval.split=validaton is none of train, validation, test, new_words, long; "
                "did you mean validation?",
                "eval.tasks: ccks2023 has no task MedDGG; did you mean MedDG?",
            ],
            id="names_of_tasks_and_splits",
        ),
        pytest.param(
            "eval.every_n_steps=5 eval.tasks=[CMeEE,ner]",
            [
                "eval.tasks: ccks2023 has no task CMeEE; did you mean CMeEE-V2?",
                "eval.tasks: ccks2023 has no task ner; did you mean IMCS-V2-NER?",
            ],
            id="short_names_of_tasks",
        ),
        pytest.param(
            "eval.every_n_steps=5 eval.tasks=[]",
            ["eval.tasks=[] leaves nothing to answer; name tasks, or set eval.tasks=null for all"],
            id="no_task_at_all",
        ),
        pytest.param(
            "data.splits.validation=null",
            ["data.splits.validation=null: it cannot be null"],
            id="a_file_that_is_null",
        ),
        pytest.param(
            "task=generate generate.output=.",
            ["generate.output={here} is a folder; name a file in it"],
            id="output_is_a_folder",
        ),
        pytest.param(
            "checkpoint.keep_best=1 checkpoint.monitor=eval/score",
            [
                "checkpoint.monitor=eval/score is measured by evaluations during training; "
                "set eval.every_n_steps=N"
            ],
            id="best_by_what_is_not_measured",
        ),
        pytest.param(
            "checkpoint.keep_best=1 checkpoint.monitor=eval/MedDGG eval.every_n_steps=5 eval.tasks=[MedDG]",
            [
                "checkpoint.monitor=eval/MedDGG is none of eval/score, eval/parse_failures, eval/MedDG; "
                "did you mean eval/MedDG?"
            ],
            id="best_by_a_misspelt_task",
        ),
        pytest.param(
            "checkpoint.keep_best=1 checkpoint.monitor=evl/score eval.every_n_steps=5",
            [
                "checkpoint.monitor=evl/score is none of val/loss, val/accuracy, eval/score, eval/TASK; "
                "did you mean eval/score?"
            ],
            id="best_by_a_misspelt_section",
        ),
        pytest.param(
            "eval.every_n_steps=0 eval.limit_per_task=0",
            ["eval.every_n_steps=0 must be at least 1", "eval.limit_per_task=0 must be at least 1"],
            id="never_is_null",
        ),
        pytest.param(
            "data.format=pair eval.every_n_steps=5 eval.tasks=[MedDG]",
            ["eval.tasks: data.format=pair has none of PromptCBLUE's tasks; leave it out"],
            id="tasks_of_other_data",
        ),
        pytest.param(
            "eval.every_n_steps=5 strategy._target_=lightning.pytorch.strategies.DDPStrategy",
            [
                "eval.every_n_steps=5 with strategy._target_=lightning.pytorch.strategies.DDPStrategy: how "
                "it lays weights out is not known here; set strategy=ddp, fsdp or zero3, or "
                "eval.every_n_steps=null"
            ],
            id="a_strategy_of_unknown_layout",
        ),
        pytest.param(
            "data=local model=local",
            [
                "task=train needs data.splits.train=FILE; data=local has no splits",
                "model.path is not set, and model=local needs it; "
                "set model.path=FOLDER, or model.init=random",
            ],
            id="nothing_named",
        ),
        pytest.param(
            "data.dir=nowhere",
            [
                "data.dir={here}/nowhere is not there; set data.dir=FOLDER "
                "(origin: python -m medtune.data.sample writes it again)"
            ],
            id="no_such_folder",
        ),
        pytest.param(
            "task=generate generate.split=tst weights=nowhere",
            [
                "generate.split=tst is not a split; "
                "data=sample has train, validation, test, new_words, long; did you mean generate.split=test?",
                "weights={here}/nowhere is not there; "
                "it must name a run folder, a checkpoint in one, or an exported model",
            ],
            id="generate",
        ),
        pytest.param(
            "name=${nme}", ["name: Interpolation key 'nme' not found"], id="interpolation_of_nothing"
        ),
        pytest.param(
            "-m optim.lrr=1,2",
            ["optim.lrr=1,2: there is no key optim.lrr; did you mean optim.lr?"],
            id="sweep",
        ),
        pytest.param(
            "-m optim.lr=1,2 data.dir=nowhere",
            [
                "data.dir={here}/nowhere is not there; set data.dir=FOLDER "
                "(origin: python -m medtune.data.sample writes it again)"
            ],
            id="sweep_of_which_no_trial_can_run",
        ),
    ],
)
def test_a_command_is_refused_with_all_its_problems(line, problems):
    assert problems_of(line) == [problem.format(here=Path.cwd()) for problem in problems]


def test_rules_of_the_layers_below_are_told_too(tmp_path):
    (problem,) = problems_of("strategy=fsdp optim=galore")
    assert problem.startswith("optim=galore with strategy=fsdp: ")
    refusal = [
        "model.model_type=mpt cannot train on packed rows: it takes a 2-D mask only, through which packed "
        "documents see each other; set data.packing=none "
        "(packing is safe for baichuan, bloom, llama, mistral, qwen2, qwen3)"
    ]
    assert problems_of("model.model_type=mpt") == refusal
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mpt"}')
    assert problems_of(f"model=local model.path={folder}") == refusal


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="the_default"),
        pytest.param("optim.lr=1e-3 strategy=zero3 strategy.overlap_comm=true", id="argument_passed_on"),
        pytest.param("trainer.extra.profiler=simple", id="argument_of_the_trainer"),
        pytest.param("logger=[wandb,tensorboard]", id="loggers"),
        pytest.param(
            "logger.csv={_target_:lightning.pytorch.loggers.CSVLogger,save_dir:x}", id="foreign_logger"
        ),
        pytest.param("data=sample_corpus objective=pretrain", id="corpus"),
        pytest.param("quantization=nf4 adapter=lora", id="qlora"),
        pytest.param("model.model_type=bloom data.packing=none", id="a_leaky_family_without_packing"),
        pytest.param("-m adapter=none,lora quantization=nf4", id="sweep_of_which_a_trial_can_run"),
        pytest.param("-m seed=1", id="sweep_of_one"),
        pytest.param("-m", id="sweep_of_nothing"),
        pytest.param("sweep=lr", id="sweep_of_an_option"),
        pytest.param("hydra.verbose=true", id="hydras_own"),
    ],
)
def test_a_command_is_accepted(line):
    plan = make_plan(read_options(line.split()))
    assert plan.is_sweep == ("-m" in line.split() or "sweep=" in line)


@pytest.mark.parametrize("typed", ["null", ""])
def test_records_may_have_no_query_column(typed):
    settings = make_plan(read_options(["data.format=pair", f"data.columns.query={typed}"])).settings
    source = config_from_dict(plain_settings(settings)[0]).data
    reader = Reader(source, needs_response=True, format="pair")
    prompt, response = reader.read("a.json", 1, {"instruct": "问", "answer": "答"}).turns
    assert (prompt.text, response.text) == ("问", "答")


def test_what_a_sweep_varies():
    assert make_plan(read_options(["optim.lr=3", "-m", "seed=1,2"])).swept == ["seed"]
    assert make_plan(read_options(["sweep=lr"])).swept == ["optim.lr"]


def test_options_may_stand_anywhere():
    options = read_options(["a=1", "-m", "b=2", "--cfg", "job", "c=3", "--unknown"])
    assert options.overrides == ["a=1", "b=2", "c=3", "--unknown"]
    assert (options.multirun, options.cfg) == (True, "job")


BROKEN = {
    "experiment/key.yaml": (
        "# @package _global_\noptim:\n  lrr: 3\n",
        "experiment/key.yaml: there is no key optim.lrr; did you mean optim.lr?",
    ),
    "experiment/type.yaml": (
        "# @package _global_\noptim:\n  lr: abc\n",
        "experiment/type.yaml: optim.lr: Value 'abc' of type 'str' could not be converted to Float",
    ),
    "experiment/section.yaml": (
        "# @package _global_\noptm:\n  lr: 3\n",
        "experiment/section.yaml: there is no key optm; did you mean optim?",
    ),
    "model/key.yaml": (
        "hiden_size: 3\n",
        "model/key.yaml: there is no key model.hiden_size; did you mean model.hidden_size?",
    ),
    "model/syntax.yaml": (
        "name: [x, ${y}]\n",
        "{here}/conf/model/syntax.yaml:1:12: not YAML: expected ',' or ']', but got '{{'",
    ),
    "data/choice.yaml": (
        "packing: bdf\n",
        "data.packing=bdf is none of bfd, concat, none; did you mean data.packing=bfd?",
    ),
    "strategy/argument.yaml": (
        f"_target_: {ZERO}\nstag: 3\n",
        f"strategy.stag=3: {ZERO} takes no stag; did you mean strategy.stage?",
    ),
}


@pytest.mark.parametrize("file", BROKEN)
def test_a_mistake_in_a_file_names_file_and_key(tmp_path, file):
    text, problem = BROKEN[file]
    path = tmp_path / "conf" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    line = f"-cd {tmp_path / 'conf'} {path.parent.name}={path.stem}"
    assert problem.format(here=tmp_path) in problems_of(line)


def test_a_refusal_is_one_screen(capsys):
    assert main(["optim.lrr=1", "seed=x"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "medtune: 2 problems, nothing was started",
        "  - optim.lrr=1: there is no key optim.lrr; did you mean optim.lr?",
        "  - seed=x is not a whole number",
        "`python -m medtune --help GROUP` shows every key of a group.",
    ]
    assert list(Path.cwd().iterdir()) == []


def test_an_earlier_run_is_not_written_over(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: x\n")
    assert main([f"run_dir={tmp_path / 'run'}"]) == 2
    assert "holds an earlier run; continue it with resume=auto" in capsys.readouterr().err


def test_every_trial_is_tried_and_the_table_shows_all(tmp_path, capsys):
    """Trials that are refused, so that no worker starts."""
    assert main(["-m", "seed=-1,-2", "optim.lr=-1,-2", f"run_dir={tmp_path / 'sweep'}"]) == 1
    table = (tmp_path / "sweep" / "sweep.csv").read_text().splitlines()
    assert table[0] == "trial,seed,optim.lr,status,train_loss,val_loss,score,folder"
    assert [row.split(",")[:4] for row in table[1:]] == [
        ["0", "-1", "-1", "refused"],
        ["1", "-1", "-2", "refused"],
        ["2", "-2", "-1", "refused"],
        ["3", "-2", "-2", "refused"],
    ]
    assert (tmp_path / "sweep" / "3-seed=-2,optim.lr=-2" / "result.json").exists()
    assert capsys.readouterr().err.count("nothing was started") == 4


@pytest.mark.parametrize("line", ["run_dir=run", "-m seed=1,2 run_dir=run"])
def test_a_folder_that_cannot_be_written_is_told_without_a_traceback(tmp_path, full_disk, capsys, line):
    (tmp_path / "run").mkdir()
    with full_disk(0):
        assert main(line.split()) == 2
    assert list((tmp_path / "run").iterdir()) == []
    assert capsys.readouterr().err.splitlines()[:2] == [
        "medtune: 1 problem, nothing was started",
        f"  - run_dir={tmp_path / 'run'} cannot be written: File too large; "
        "make room or get permission, or set run_dir=DIR",
    ]


def test_hydra_gets_the_options_that_were_typed():
    typed = ["-m", "-cd", "folder", "--cfg", "job", "-p", "optim", "a=b"]
    given = hydra_options(get_args_parser().parse_args(typed))
    assert vars(get_args_parser().parse_args([*given, "a=b"])) == vars(get_args_parser().parse_args(typed))


def test_composed_paths_do_not_depend_on_the_folder():
    plan = make_plan(read_options([]))
    assert plan.settings.data.dir == str(PROJECT / "data" / "sample")
