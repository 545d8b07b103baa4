"""Which settings may change between a checkpoint and the run that goes on from it."""

from dataclasses import asdict, replace

import pytest

from medtune.config.keys import schema_keys, section_names
from medtune.config.schema import (
    AdapterConfig,
    CheckpointConfig,
    Config,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TrainerConfig,
)
from medtune.training.checkpoints import Checkpoint
from medtune.training.resume import (
    ENDS,
    FITTED,
    HARMLESS,
    adapters_below,
    data_problems,
    depends_on_end,
    describe_changes,
    effect_of,
    mode_of,
    resume_problems,
)

BASE = Config(
    model=ModelConfig(init="random", model_type="llama"),
    trainer=TrainerConfig(devices=1, max_steps=10),
    adapter=AdapterConfig(name="lora"),
)


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of step 4 by a run of ``BASE``."""
    return Checkpoint(tmp_path / "step-4", 4, 32, "file", 1, asdict(BASE), data="rows")


def test_every_name_in_the_lists_is_one_of_the_schema():
    assert {*HARMLESS, *ENDS, *FITTED} <= {*schema_keys(), *section_names()}


def test_what_bears_on_training_does_so_by_default():
    """A key that is added to one of these sections is refused until someone thinks about it."""
    of_training = ("optim", "schedule", "adapter", "quantization", "template", "loss", "objective", "seed")
    for key in schema_keys():
        if key.partition(".")[0] in of_training and key != "template.name":
            assert effect_of(key) != "none", key
    assert effect_of("optim.brand_new") == "training"
    harmless_of_trainer = {key for key in schema_keys() if key.startswith("trainer.")} & {
        key for key in schema_keys() if effect_of(key) == "none"
    }
    assert harmless_of_trainer == {
        "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.log_every_n_steps",
        "trainer.val_every_n_steps", "trainer.val_max_rows", "trainer.progress",
    }  # fmt: skip


def problems(saved, changed, world_size=1, layout="file"):
    return resume_problems(saved, changed, layout, world_size)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(BASE, id="nothing"),
        pytest.param(replace(BASE, checkpoint=CheckpointConfig(keep_last=3)), id="checkpoints"),
        pytest.param(replace(BASE, trainer=replace(BASE.trainer, max_steps=20)), id="a_later_end"),
        pytest.param(replace(BASE, trainer=replace(BASE.trainer, max_steps=4)), id="an_end_at_this_step"),
        pytest.param(replace(BASE, name="other", tags=["a"], logger={"w": {}}), id="names_and_loggers"),
    ],
)
def test_what_changes_no_step_is_accepted(saved, changed):
    assert problems(saved, changed) == []


@pytest.mark.parametrize(
    ("changed", "keys"),
    [
        pytest.param(replace(BASE, optim=OptimConfig(lr=0.5)), ["optim.lr=0.5 (2e-05 before)"], id="rate"),
        pytest.param(
            replace(BASE, objective="pretrain"), ["objective=pretrain (sft before)"], id="top_level"
        ),
        pytest.param(
            replace(BASE, optim=OptimConfig(lr=0.5), schedule=ScheduleConfig(name="linear")),
            ["optim.lr=0.5 (2e-05 before)", "schedule.name=linear (cosine before)"],
            id="two",
        ),
    ],
)
def test_what_changes_steps_must_be_allowed_by_name(saved, changed, keys):
    [problem] = problems(saved, changed)
    assert problem.startswith("; ".join(keys) + f": {saved.path} was written with the former")
    names = [key.partition("=")[0] for key in keys]
    assert f"'resume_allow=[{','.join(names)}]'" in problem
    assert problems(saved, replace(changed, resume_allow=names)) == []
    assert problems(saved, replace(changed, resume_allow=[name.partition(".")[0] for name in names])) == []


def test_the_proposed_allowance_keeps_the_one_that_is_there(saved):
    changed = replace(BASE, optim=OptimConfig(lr=0.5, weight_decay=1.0), resume_allow=["optim.lr"])
    [problem] = problems(saved, changed)
    assert problem.startswith("optim.weight_decay=1.0 (0.0 before): ")
    assert "'resume_allow=[optim.lr,optim.weight_decay]'" in problem


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        pytest.param(
            replace(BASE, model=replace(BASE.model, hidden_size=64, num_hidden_layers=2)),
            r"model.hidden_size=64 (null before); model.num_hidden_layers=2 (null before): {} holds the "
            "state of another network, which cannot be used",
            id="network",
        ),
        pytest.param(
            replace(BASE, adapter=AdapterConfig(name="lora", rank=4)),
            "adapter.rank=4 (8 before): {} holds the state of another adapter",
            id="rank",
        ),
        pytest.param(
            replace(BASE, optim=OptimConfig(name="sgd")),
            "optim.name=sgd (adamw before): {} holds the state of another optimizer",
            id="optimizer",
        ),
        pytest.param(
            replace(BASE, seed=1), "seed=1 (42 before): {} holds the state of another seed", id="drawn_base"
        ),
        pytest.param(
            replace(BASE, trainer=replace(BASE.trainer, max_steps=3)),
            "trainer.max_steps: the run would end at step 3, but {} is at step 4 already",
            id="an_earlier_end",
        ),
    ],
)
def test_what_cannot_work_is_refused_even_when_it_is_allowed(saved, changed, problem):
    everything = list(dict.fromkeys(key.partition(".")[0] for key in schema_keys()))
    [found] = problems(saved, replace(changed, resume_allow=everything))
    assert found.startswith(problem.format(saved.path))


def test_another_layout_or_number_of_zero_ranks_is_refused(saved):
    [problem] = problems(saved, BASE, layout="fsdp")
    assert problem.startswith(
        f"strategy: {saved.path} was written in the layout 'file', this run uses 'fsdp'"
    )
    saved = replace(saved, layout="zero2", world_size=4)
    changed = replace(BASE, trainer=replace(BASE.trainer, precision="bf16-mixed"), resume_allow=["trainer"])
    found = problems(saved, changed, world_size=2, layout="zero2")
    assert found[0].startswith("trainer.precision=bf16-mixed (32-true before): ")
    assert found[1].startswith(f"trainer.devices: {saved.path} was written by 4 ranks, this run has 2")


def test_a_key_without_effect_may_change(saved):
    """Momentum's rates are not read by plain descent."""
    sgd = replace(BASE, optim=OptimConfig(name="sgd"))
    saved = replace(saved, config=asdict(sgd))
    assert problems(saved, replace(sgd, optim=OptimConfig(name="sgd", betas=[0.5, 0.5]))) == []


def test_what_a_projector_keeps_in_its_state_may_not_change(saved):
    """It would be accepted and then have no effect."""
    galore = replace(BASE, optim=OptimConfig(name="galore"))
    saved = replace(saved, config=asdict(galore))
    for change in ({"scale": 1.0}, {"update_interval": 7}, {"rank": 2}):
        changed = replace(galore, optim=replace(galore.optim, **change), resume_allow=["optim"])
        [problem] = problems(saved, changed)
        assert "holds the state of another optimizer, which cannot be used" in problem


def test_a_key_that_is_newer_than_the_checkpoint_had_its_default(saved):
    del saved.config["optim"]["weight_decay"]
    assert problems(saved, BASE) == []
    [problem] = problems(saved, replace(BASE, optim=OptimConfig(weight_decay=0.1)))
    assert problem.startswith("optim.weight_decay=0.1 (0.0 before)")


def test_changes_are_listed_with_their_values(saved):
    changed = replace(BASE, name="more", trainer=replace(BASE.trainer, max_steps=20), resume="auto")
    assert describe_changes(saved, changed) == [
        "name: medtune before, more now",
        "trainer.max_steps: 10 before, 20 now",
        "schedule=cosine is stretched over the new number of steps from step 4 on",
    ]
    constant = ScheduleConfig(name="constant", warmup_steps=3)
    assert not depends_on_end(replace(BASE, schedule=constant))
    assert depends_on_end(replace(BASE, schedule=replace(constant, warmup_steps=None)))


def test_other_rows_are_refused_unless_they_were_asked_for(saved):
    assert data_problems(saved, BASE, "rows") == []
    [problem] = data_problems(saved, BASE, "others")
    assert problem.startswith(f"data: the training rows are not those that {saved.path} was written with")
    assert data_problems(saved, replace(BASE, resume_allow=["data"]), "others") == []
    longer = replace(BASE, data=replace(BASE.data, sequence_length=64))
    assert data_problems(saved, replace(longer, resume_allow=["data.sequence_length"]), "others") == []
    named = replace(BASE, data=replace(BASE.data, dir="elsewhere"))
    assert len(data_problems(saved, named, "others")) == 1


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        (CheckpointConfig(monitor="val/loss"), "min"),
        (CheckpointConfig(monitor="val/loss/leaflets"), "min"),
        (CheckpointConfig(monitor="val/perplexity"), "min"),
        (CheckpointConfig(monitor="val/accuracy"), "max"),
        (CheckpointConfig(monitor="val/loss", mode="max"), "max"),
    ],
)
def test_whether_less_is_better_follows_from_the_name(settings, mode):
    assert mode_of(settings) == mode


@pytest.mark.parametrize("place", ["", "model"])
def test_an_earlier_adapter_that_was_trained_on_meanwhile_is_noticed(saved, tmp_path, place):
    file = tmp_path / "earlier" / place / "adapter_model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"before")
    adapter = AdapterConfig(name="lora", merge=[str(tmp_path / "earlier")])
    config = replace(BASE, adapter=adapter)
    saved = replace(saved, config=asdict(config), adapters=adapters_below(config))
    assert saved.adapters is not None
    assert resume_problems(saved, config, "file", 1) == []
    file.write_bytes(b"after")
    [problem] = resume_problems(saved, config, "file", 1)
    assert problem.startswith(f"adapter: {tmp_path}/earlier changed since {saved.path} was written")
    assert problem.endswith("or accept the change with resume_allow=[adapter]")
    assert resume_problems(saved, replace(config, resume_allow=["adapter"]), "file", 1) == []


def test_without_earlier_adapters_there_is_nothing_to_compare():
    assert adapters_below(BASE) is None
