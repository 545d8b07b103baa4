"""The fit: everything a training run needs, wired to Lightning's Trainer."""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from medtune.config.instantiate import instantiate
from medtune.config.schema import Config, ScheduleConfig, TrainerConfig
from medtune.data.rows.order import StepPlan
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder
from medtune.training.checkpoints import Checkpoint, choose_checkpoint
from medtune.training.evaluation import Evaluation, Evaluator, results_of
from medtune.training.interrupt import Interrupt
from medtune.training.keeping import check_monitor
from medtune.training.loader import StepData
from medtune.training.loggers import build_loggers
from medtune.training.metrics import Metrics
from medtune.training.modules import MODULES, LanguageModelModule
from medtune.training.precision import HalfParameters
from medtune.training.progress import Bar, build_progress
from medtune.training.restoring import Restore
from medtune.training.resume import data_problems, end_problems, resume_problems
from medtune.training.saving import Checkpoints
from medtune.training.state import PlainFile
from medtune.training.strategies import build_strategy, layout_of, on_cpu, strategy_name, strategy_problems
from medtune.training.validation import Validation
from medtune.training.weights import save_model

log = logging.getLogger(__name__)

VALIDATIONS = 10  # most of them in a fit, unless trainer.val_every_n_steps asks for more: epochs can be tiny

# Said by libraries about themselves, or about what is meant to be so. Pattern: why it is of no use.
NOISE = {
    r".*does not have many workers": "packed rows are made faster than they are learned",
    r".*isinstance\(treespec, LeafSpec\).*": "Lightning's own use of torch",
    r".*You defined a `validation_step` but have no": "data without a validation split",
    r".*Total length of `list` across ranks is zero": "the same",
    r".*your dataloader is not resumable": "StepLoader starts at the checkpoint's step",
    r".*recommended to use `self.log\('val/.*sync_dist=True": "the sums have met before they are logged",
    r".*lr_scheduler\.step\(\)` before `optimizer\.step\(\)`.*": "DeepSpeed's optimizer hides its steps",
    r".*When saving the DeepSpeed Stage 3 checkpoint.*": "a directory of shards is what we want",
    r".*`torch\.distributed\.\w+` is deprecated.*": "DeepSpeed's own use of torch",
    r".*`is_gradient_checkpointing` is deprecated.*": "peft's own use of transformers",
}


@dataclass(frozen=True)
class FitResult:
    """How a fit ended.

    Attributes:
        status: ``finished`` or ``interrupted``.
        global_step: Optimizer steps done.
        train_loss: Mean loss of the learned tokens of the last two lines of metrics; None without a step.
        val_loss: Of the last validation; None without one.
        tokens: Training tokens seen, resumed parts included.
        learned_tokens: Of them, those with a label.
        seconds: Time of the steps alone, resumed parts included.
        signal_number: What interrupted it.
        best: The best checkpoint that is kept, by ``checkpoint.keep_best``: its folder below the run's, and
            what its validation reported.
    """

    status: str
    global_step: int
    train_loss: float | None
    val_loss: float | None
    tokens: int
    learned_tokens: int
    seconds: float
    signal_number: int | None = None
    best: dict[str, Any] | None = None


def fit(
    config: Config,
    datamodule: Any,
    folder: RunFolder,
    build_model: Callable[[], nn.Module] | None = None,
    export: bool = True,
    evaluator: Evaluator | None = None,
) -> FitResult:
    """Trains as configured, leaves a final checkpoint and ``RUN_DIR/model``, and says how it ended.

    Args:
        config: The settled configuration.
        datamodule: With ``setup``, ``step_plan``, ``source_names``, ``train_dataloader``, ``val_dataloader``
            and ``tokenizer``. It may have ``describe_row(epoch, row)``, which names a row's examples.
        folder: Where metrics, checkpoints and the model go.
        build_model: Instead of ``models.load.load_model``.
        export: Write ``RUN_DIR/model`` when the last step is done.
        evaluator: Generates and scores, every ``eval.every_n_steps``.

    Raises:
        ConfigError: The settings cannot work together, or do not fit the checkpoint to resume from.
        NonFiniteLossError: The loss became nan or infinite.
        EvaluationError: Answers could not be generated or scored; the state is saved.
    """
    source = find_source(config, folder)  # first: tokenising may take an hour
    datamodule.setup("fit")
    plan = datamodule.step_plan
    total_steps = count_steps(config.trainer, plan)
    warn_of_short_run(config.schedule, total_steps)
    first_step = source.global_step if source else 0
    check_learned(plan)
    data = fingerprint(plan)
    if source is not None:
        check_source(source, config, total_steps, data)
    describe_row = getattr(datamodule, "describe_row", None)
    metrics = Metrics(folder.metrics_file, config.trainer.log_every_n_steps, plan, describe_row)
    checkpoints = Checkpoints(folder.checkpoints, config, layout_of(config), metrics, source, data)
    interrupt = Interrupt(checkpoints)
    module = MODULES[config.objective](config, total_steps, build_model, datamodule.source_names)
    scored = results_of(evaluator.tasks) if evaluator else []
    check_monitor(config.checkpoint, [*module.reported_by_validation(), *scored])
    progress = build_progress(config.trainer.progress, metrics)
    evaluations: list[L.Callback] = []
    if evaluator is not None:
        show = next((bar.note for bar in progress if isinstance(bar, Bar)), None)
        evaluations = [Evaluation(config, evaluator, metrics, checkpoints, interrupt, show)]
    callbacks: list[L.Callback] = [
        TrainMode(),
        *map(instantiate, config.callbacks.values()),
        metrics,
        Validation(config.trainer.val_every_n_steps or max(plan.steps_of(0), total_steps // VALIDATIONS)),
        *evaluations,
        Restore(config, layout_of(config), source),
        checkpoints,
        *progress,
        interrupt,
    ]
    if export:
        callbacks.append(Export(datamodule.tokenizer, folder))
    L.seed_everything(config.seed, workers=True, verbose=False)
    with quiet():
        trainer = build_trainer(config, plan.accumulation, total_steps, callbacks, folder)
        steps = StepData(datamodule, first_step, total_steps)
        trainer.fit(module, datamodule=steps, ckpt_path=source.state if source else None, weights_only=True)
    return summarise(trainer.global_step, metrics, interrupt.signal_number, checkpoints.kept.best())


def summarise(
    global_step: int, metrics: Metrics, signal_number: int | None, best: Checkpoint | None
) -> FitResult:
    """How the fit ended, by its counters."""
    return FitResult(
        status="interrupted" if signal_number else "finished",
        global_step=global_step,
        train_loss=metrics.recent_loss,
        val_loss=metrics.last_validation.get("val/loss"),
        tokens=metrics.tokens,
        learned_tokens=metrics.learned_tokens,
        seconds=metrics.seconds,
        signal_number=signal_number,
        best={"checkpoint": f"checkpoints/{best.path.name}", **best.validation} if best else None,
    )


def check_learned(plan: StepPlan) -> None:
    """Holds that something is learned at all.

    Raises:
        ConfigError: Every label of the training rows is masked.
    """
    rows = len(plan.source.learned_of(0))
    if not plan.source.learned_of(0).any():
        raise ConfigError(
            f"data: none of the {rows} training rows has a learned token, so there is nothing to train; see "
            "data_report.json, and check data.format, data.learn and the template, or set objective=pretrain"
        )


def fingerprint(plan: StepPlan) -> str:
    """What tells the training rows from others: their tokens, and how the first epoch arranges them."""
    learned = plan.source.learned_of(0)
    return hashlib.sha256(plan.source.digest.encode() + learned.astype("<i8").tobytes()).hexdigest()[:16]


def check_source(source: Checkpoint, config: Config, total_steps: int, data: str | None) -> None:
    """Holds what is known of a checkpoint only when the data are.

    Raises:
        ConfigError: The run would end before it, or its rows were others.
    """
    problems = end_problems(source, total_steps, "trainer.max_epochs") if not config.trainer.max_steps else []
    problems += data_problems(source, config, data)
    if problems:
        raise ConfigError(problems)


def warn_of_short_run(schedule: ScheduleConfig, total_steps: int) -> None:
    """Says that the run ends before its warm-up does, so that no step has the learning rate that was set."""
    if schedule.warmup_steps is not None and schedule.warmup_steps >= total_steps:
        log.warning(
            "warning: schedule.warmup_steps=%d, but the run has %d steps: none reaches optim.lr; set fewer, "
            "or schedule.warmup_steps=null schedule.warmup_ratio=0.03",
            *(schedule.warmup_steps, total_steps),
        )


def count_steps(config: TrainerConfig, plan: StepPlan) -> int:
    """Optimizer steps of the whole fit."""
    if config.max_steps is not None:
        return config.max_steps
    return plan.total_steps(config.max_epochs or 1)


def ranks() -> tuple[int, int]:
    """Ranks in all and on this machine; torchrun says so, and without it there is one."""
    return int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def find_source(config: Config, folder: RunFolder) -> Checkpoint | None:
    """The checkpoint to resume from, once it is known to fit the settings."""
    problems = strategy_problems(config)
    if config.trainer.accelerator == "cuda" and on_cpu(config):
        problems.append(
            "trainer.accelerator=cuda, but torch sees no GPU; set trainer.accelerator=cpu or auto"
        )
    source = choose_checkpoint(config.resume, folder.checkpoints)
    if source is not None:
        problems += resume_problems(source, config, layout_of(config), ranks()[0])
    if problems:
        raise ConfigError(problems)
    return source


def build_trainer(
    config: Config, accumulation: int, total_steps: int, callbacks: list[L.Callback], folder: RunFolder
) -> L.Trainer:
    """Lightning's Trainer with its own logging, checkpoints, sampler and validation rhythm switched off."""
    world_size, local_world_size = ranks()
    strategy = build_strategy(config, world_size)
    arguments: dict[str, Any] = {
        "accelerator": "cpu" if on_cpu(config) else "cuda",
        "devices": local_world_size,
        "num_nodes": world_size // local_world_size,
        "strategy": strategy,
        "max_steps": total_steps,
        "max_epochs": -1,
        "accumulate_grad_batches": accumulation,
        # The module clips; only DeepSpeed has to know the limit, since its gradients are out of reach.
        "gradient_clip_val": config.trainer.gradient_clip_norm
        if hasattr(strategy, "clips_gradients")
        else None,
        # Never of its own accord: see validation.py.
        "val_check_interval": total_steps * accumulation + 1,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": build_loggers(config, folder) or False,
        "log_every_n_steps": config.trainer.log_every_n_steps,
        "default_root_dir": str(folder.path),
        "callbacks": callbacks,
        **_precision(config),
    }
    return L.Trainer(**{**arguments, **config.trainer.extra})


def _precision(config: Config) -> dict[str, Any]:
    name = strategy_name(config)
    plugins: list[Any] = [PlainFile()] if layout_of(config) == "file" else []
    if config.trainer.precision == "bf16-true" and name != "zero":
        return {"plugins": [*plugins, HalfParameters("bf16-true")]}
    if config.trainer.precision == "16-mixed" and on_cpu(config) and name != "zero":
        # By its name alone Lightning would take bfloat16 instead, with no more than a warning.
        return {"plugins": [*plugins, MixedPrecision("16-mixed", "cpu")]}
    return {"plugins": plugins, "precision": config.trainer.precision}


class TrainMode(L.Callback):
    """Holds promise 4: transformers loads in eval mode, and Lightning keeps what it finds."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks every module before the first step."""
        idle = [name for name, module in pl_module.named_modules() if not module.training]
        assert not idle, f"modules in eval mode at the start of the fit: {idle[:5]}"


class Export(L.Callback):
    """Writes ``RUN_DIR/model`` when the last step is done."""

    def __init__(self, tokenizer: Any, folder: RunFolder) -> None:
        self.tokenizer = tokenizer
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Runs on all ranks while the strategy still holds the weights; also when nothing was left to do."""
        assert isinstance(pl_module, LanguageModelModule)
        if trainer.global_step == pl_module.total_steps:
            save_model(trainer, pl_module, self.tokenizer, self.folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Drops the warnings of ``NOISE`` and Lightning's lines about itself."""
    with warnings.catch_warnings():
        for pattern in NOISE:
            warnings.filterwarnings("ignore", message=pattern)
        for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
            logging.getLogger(name).setLevel(logging.WARNING)
        yield
