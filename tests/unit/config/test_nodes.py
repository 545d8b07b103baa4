import pytest

from medtune.config.nodes import TRAINER_KEYS, node_problems
from medtune.config.schema import Config, TrainerConfig
from medtune.config.signatures import signature_of

ZERO = "medtune.training.strategies.zero"
CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"


@pytest.mark.parametrize(
    ("config", "problems"),
    [
        pytest.param(Config(), [], id="empty"),
        pytest.param(
            Config(strategy={"_target_": ZERO, "stage": 3, "overlap_comm": True}), [], id="passed_on"
        ),
        pytest.param(
            Config(strategy={"_target_": ZERO, "stagee": 3}),
            [
                f"strategy.stagee=3: {ZERO} takes no stagee; did you mean strategy.stage?",
                f"strategy.stage is missing: {ZERO} needs it",
            ],
            id="misspelt_and_missing",
        ),
        pytest.param(
            Config(strategy={"_target_": "medtune.training.strategies.zeroo"}),
            [
                "strategy._target_=medtune.training.strategies.zeroo does not exist; "
                "did you mean medtune.training.strategies.zero?"
            ],
            id="no_such_name",
        ),
        pytest.param(
            Config(strategy={"_target_": "no_such_package.module.x"}),
            [
                "strategy._target_=no_such_package.module.x does not exist: "
                "there is no module no_such_package.module"
            ],
            id="no_such_module",
        ),
        pytest.param(
            Config(strategy={"stage": 3}),
            ["strategy has no _target_: set strategy._target_ to the dotted path of what to build"],
            id="no_target",
        ),
        pytest.param(
            Config(logger={"wandb": {"_target_": "medtune.training.loggers.wandb"}}), [], id="offered"
        ),
        pytest.param(
            Config(logger={"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dri": "x"}}),
            [
                "logger.csv.save_dri=x: lightning.pytorch.loggers.CSVLogger takes no save_dri; "
                "did you mean logger.csv.save_dir?",
                "logger.csv.save_dir is missing: lightning.pytorch.loggers.CSVLogger needs it",
            ],
            id="logger_of_lightning",
        ),
        pytest.param(
            Config(callbacks={"early": {"_target_": CHECKPOINT, "dirpth": "x"}, "other": 3}),
            [
                f"callbacks.early.dirpth=x: {CHECKPOINT} takes no dirpth; "
                "did you mean callbacks.early.dirpath?",
                "callbacks.other=3 is not a node: "
                "it needs callbacks.other._target_, which names what to build",
            ],
            id="callbacks",
        ),
        pytest.param(
            Config(callbacks={"bar": {"_target_": CHECKPOINT, "dirpath": {"_target_": "pathlib.Pathh"}}}),
            ["callbacks.bar.dirpath._target_=pathlib.Pathh does not exist; did you mean pathlib.Path?"],
            id="inner_node",
        ),
        pytest.param(Config(trainer=TrainerConfig(extra={"fast_dev_run": True})), [], id="trainer_argument"),
        pytest.param(
            Config(trainer=TrainerConfig(extra={"fast_dev_runn": True, "max_steps": 3})),
            [
                "trainer.extra.max_steps=3: medtune sets it itself; use trainer.max_steps",
                "trainer.extra.fast_dev_runn=true: lightning.pytorch.Trainer takes no fast_dev_runn; "
                "did you mean trainer.extra.fast_dev_run?",
            ],
            id="trainer_arguments",
        ),
    ],
)
def test_open_nodes_are_bound_before_anything_is_imported(config, problems):
    assert list(node_problems(config)) == problems


def test_the_trainer_has_every_argument_that_medtune_sets():
    signature = signature_of("lightning.pytorch.Trainer")
    assert signature is not None
    assert set(TRAINER_KEYS) <= set(signature.names)
