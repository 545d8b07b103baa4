import subprocess
import sys
from dataclasses import replace

import pytest

from medtune.config.schema import CheckpointConfig, Config
from medtune.training.strategies import layout_of, strategy_problems

BUILDERS = "medtune.training.strategies"
ZERO = f"{BUILDERS}.zero"


def configured(quantization: str = "none", **node: object) -> Config:
    config = Config(strategy=dict(node))
    config.quantization.name = quantization
    return config


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        pytest.param(configured(), "file", id="empty"),
        pytest.param(configured(_target_=f"{BUILDERS}.ddp"), "file", id="ddp"),
        pytest.param(configured(_target_=f"{BUILDERS}.fsdp"), "fsdp", id="fsdp"),
        pytest.param(configured(_target_=ZERO, stage=2), "zero2", id="zero2"),
    ],
)
def test_layouts(config, layout):
    assert layout_of(config) == layout
    assert strategy_problems(config) == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        pytest.param(configured(_target_=ZERO, stage=4), "strategy.stage=4 must be 1, 2 or 3", id="stage"),
        pytest.param(
            configured(_target_=ZERO, stage=2, offload_parameters=True),
            "needs strategy.stage=3",
            id="off",
        ),
    ],
)
def test_what_cannot_work_is_told_with_the_reason(config, words):
    problems = strategy_problems(config)
    assert len(problems) == 1
    assert words in problems[0]


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("node", [{"_target_": f"{BUILDERS}.fsdp"}, {"_target_": ZERO, "stage": 3}])
def test_quantised_bases_may_be_sharded(quantization, node):
    """tests/numerics/test_strategies.py holds that they are right."""
    assert strategy_problems(configured(quantization, **node)) == []


def test_shards_are_written_while_training_waits():
    config = Config(
        checkpoint=CheckpointConfig(asynchronous=True),
        strategy={"_target_": "medtune.training.strategies.fsdp"},
    )
    [problem] = strategy_problems(config)
    assert problem.startswith("checkpoint.asynchronous=true with strategy=fsdp: its ranks write their shards")
    assert strategy_problems(replace(config, strategy={})) == []


def test_asking_for_problems_imports_nothing_heavy():
    code = (
        "import sys; from medtune.config.schema import Config\n"
        "from medtune.training.strategies import strategy_problems\n"
        f"strategy_problems(Config(strategy={{'_target_': '{ZERO}', 'stage': 3}}))\n"
        "print(*{'torch', 'lightning', 'transformers', 'deepspeed'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
