"""The rules between settings; all that are broken are told together, before anything heavy loads."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medtune.config.data_checks import data_problems
from medtune.config.evaluations import evaluation_problems
from medtune.config.generate_checks import GENERATION_RULES
from medtune.config.idle import has_validation
from medtune.config.keys import schema_keys, section_names, value_of
from medtune.config.load import show
from medtune.config.measure_checks import measure_problems
from medtune.config.model_checks import network_problems
from medtune.config.nodes import node_problems
from medtune.config.paths import path_problems, splits_answered
from medtune.config.schema import GPU_ATTENTION, Config
from medtune.config.serve_checks import serve_problems
from medtune.config.suggest import did_you_mean, nearest, nearest_key
from medtune.config.templates import template_problems

Rule = Callable[[Config], Iterable[str]]

INFINITY = float("inf")
GGUF_CONVERTER = "convert_hf_to_gguf.py"
# Tasks that divide their work over devices; the others run in one process.
TASKS_OF_MANY = ("train", "generate", "evaluate")


@dataclass(frozen=True)
class Machine:
    """What the settings are checked against."""

    gpus: int
    cores: int


@dataclass(frozen=True)
class Range:
    """The numbers that a key may have; ``above`` leaves the lower end out, ``below`` the upper."""

    key: str
    low: float
    high: float = INFINITY
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies in it; NaN never does."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high

    def words(self) -> str:
        """The range in words: "at least 1", "from 0 to below 1"."""
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        if self.high == INFINITY:
            return f"{low} and finite" if self.below else low
        return f"{low} and {'below' if self.below else 'at most'} {self.high:g}"


RANGES = (
    Range("seed", 0, 2**32 - 1),
    Range("model.vocab_size", 1),
    Range("model.hidden_size", 1),
    Range("model.intermediate_size", 1),
    Range("model.num_hidden_layers", 1),
    Range("model.num_attention_heads", 1),
    Range("model.num_key_value_heads", 1),
    Range("model.max_position_embeddings", 1),
    Range("adapter.rank", 1),
    Range("adapter.alpha", 0, above=True),
    Range("adapter.dropout", 0, 1, below=True),
    Range("adapter.num_virtual_tokens", 1),
    Range("adapter.first_layers", 1),
    Range("adapter.last_layers", 1),
    Range("data.sequence_length", 2),
    Range("data.micro_batch_size", 1),
    Range("data.global_batch_size", 1),
    Range("data.prepare_workers", 1),
    Range("data.num_workers", 0),
    Range("optim.lr", 0, INFINITY, below=True),
    Range("optim.eps", 0),
    Range("optim.weight_decay", 0),
    Range("optim.layer_lr_decay", 0, 1, above=True),
    Range("optim.embedding_lr", 0, INFINITY, below=True),
    Range("optim.lora_plus_ratio", 0, above=True),
    Range("optim.rank", 1),
    Range("optim.update_interval", 1),
    Range("optim.scale", 0, above=True),
    Range("schedule.warmup_ratio", 0, 1),
    Range("schedule.warmup_steps", 0),
    Range("schedule.min_lr_ratio", 0, 1),
    Range("schedule.decay_ratio", 0, 1),
    Range("schedule.decay_steps", 0),
    Range("loss.label_smoothing", 0, 1, below=True),
    Range("loss.z_loss", 0),
    Range("loss.neftune_alpha", 0),
    Range("trainer.devices", 1),
    Range("trainer.max_steps", 1),
    Range("trainer.max_epochs", 0, above=True),
    Range("trainer.gradient_clip_norm", 0, above=True),
    Range("trainer.log_every_n_steps", 1),
    Range("trainer.val_every_n_steps", 1),
    Range("trainer.val_max_rows", 1),
    Range("checkpoint.every_n_steps", 1),
    Range("checkpoint.every_n_tokens", 1),
    Range("checkpoint.every_n_minutes", 0, above=True),
    Range("checkpoint.keep_last", 1),
    Range("checkpoint.keep_best", 0),
    Range("checkpoint.keep_every_n_steps", 1),
    Range("eval.limit", 1),
    Range("evaluate.shots", 0),
    Range("evaluate.worst_rows", 0),
    Range("eval.every_n_steps", 1),
    Range("eval.limit_per_task", 1),
    Range("generate.max_new_tokens", 1),
    Range("generate.batch_tokens", 1),
    Range("generate.temperature", 0),
    Range("generate.top_p", 0, 1, above=True),
    Range("generate.top_k", 0),
    Range("generate.repetition_penalty", 0, above=True),
    Range("generate.num_beams", 1),
    Range("generate.length_penalty", -INFINITY, INFINITY, below=True),
    Range("generate.merge_shards", 1),
    Range("launcher.master_port", 1, 65535),
    Range("serve.port", 0, 65535),
    Range("serve.max_batch_rows", 1),
    Range("serve.max_batch_tokens", 2),
    Range("serve.max_queue", 1),
    Range("serve.max_tokens", 1),
    Range("serve.max_body_bytes", 1024),
    Range("serve.max_connections", 1),
    Range("serve.request_timeout", 0, above=True, below=True),
    Range("serve.client_timeout", 0, above=True, below=True),
    Range("serve.shutdown_timeout", 0, 45),
)


def check(config: Config, machine: Machine, more: Iterable[Rule] = ()) -> list[str]:
    """Every problem of the settings; none when the run may start.

    Args:
        config: With absolute paths and the devices decided.
        machine: Where it is to run.
        more: Rules of other layers.
    """
    problems = [problem for rule in (*RULES, *more) for problem in rule(config)]
    return [*problems, *device_problems(config, machine)]


def range_problems(config: Config) -> Iterator[str]:
    """Numbers outside what they mean."""
    for limits in RANGES:
        value = value_of(config, limits.key)
        if value is not None and not limits.holds(value):
            yield f"{limits.key}={show(value)} must be {limits.words()}"
    betas = config.optim.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        yield f"optim.betas={show(betas)} must be two numbers from 0 to below 1"


def batch_problems(config: Config) -> Iterator[str]:
    """A global batch that the devices cannot share evenly."""
    if config.task != "train":
        return
    micro, whole = config.data.micro_batch_size, config.data.global_batch_size
    devices = (config.trainer.devices or 1) * config.trainer.num_nodes
    per_pass = (micro or 1) * devices
    if per_pass > 0 and whole % per_pass:
        nearest_whole = max(per_pass, round(whole / per_pass) * per_pass)
        of = f"trainer.devices={devices}"
        if micro is not None:
            of = f"data.micro_batch_size * trainer.devices ({micro} * {devices} = {per_pass})"
        yield (
            f"data.global_batch_size={whole} is not a multiple of {of}; "
            f"the nearest is data.global_batch_size={nearest_whole}"
        )


def node_count_problems(config: Config) -> Iterator[str]:
    """Several machines, which the local launcher cannot start."""
    if config.trainer.num_nodes != 1:
        yield (
            f"trainer.num_nodes={config.trainer.num_nodes}: launcher=local starts processes on this machine "
            "only; set trainer.num_nodes=1"
        )


def device_problems(config: Config, machine: Machine) -> Iterator[str]:
    """More or other devices than the machine shows."""
    devices = config.trainer.devices or 1
    if config.trainer.accelerator == "cuda" and machine.gpus == 0:
        yield "trainer.accelerator=cuda, but no GPU is visible here; set trainer.accelerator=cpu"
    elif config.trainer.accelerator == "cuda" and devices > machine.gpus:
        yield (
            f"trainer.devices={devices}, but {machine.gpus} GPUs are visible here; "
            f"set trainer.devices={machine.gpus}"
        )


def export_problems(config: Config) -> Iterator[str]:
    """A GGUF file without its converter, or of an adapter; a trained prompt that is to be merged."""
    export = config.export
    if config.task == "export" and export.merge and config.adapter.name == "prompt_tuning":
        yield (
            "adapter=prompt_tuning: a trained prompt is tokens, and no weights could be merged into the "
            "model; set export.merge=false"
        )
    if config.task != "export" or export.gguf == "none":
        return
    if not export.merge:
        yield f"export.gguf={export.gguf} needs a whole model; leave export.merge=false out"
    folder = export.llama_cpp or os.environ.get("LLAMA_CPP")
    if folder is None:
        yield (
            f"export.gguf={export.gguf} needs llama.cpp, whose converter it runs: git clone "
            "https://github.com/ggml-org/llama.cpp, and set export.llama_cpp=FOLDER"
        )
    elif not (Path(folder) / GGUF_CONVERTER).is_file():
        yield f"export.llama_cpp={folder} has no {GGUF_CONVERTER}; it must name llama.cpp's folder"


def template_rules(config: Config) -> Iterator[str]:
    """A template that cannot be rendered."""
    yield from template_problems(config.template)


def resume_problems(config: Config) -> Iterator[str]:
    """A run to continue that is not named."""
    if config.resume == "auto" and config.run_dir is None:
        yield "resume=auto needs run_dir=DIR, the run to continue"


def allowance_problems(config: Config) -> Iterator[str]:
    """Changes that are accepted by a name that no key has."""
    known = [*schema_keys(), *section_names()]
    for name in config.resume_allow:
        if name not in known:
            meant = did_you_mean(nearest_key(name, known))
            yield f"resume_allow={show(config.resume_allow)}: there is no key or section {name}{meant}"


def best_problems(config: Config) -> Iterator[str]:
    """The best of what is never measured."""
    if config.task != "train" or not config.checkpoint.keep_best:
        return
    monitor = config.checkpoint.monitor
    if monitor.startswith("eval/"):
        return  # launch.task_names knows the tasks
    if not has_validation(config):
        yield (
            f"checkpoint.keep_best={config.checkpoint.keep_best} chooses by {monitor}, but "
            "nothing is held out for validation; set data.validation_size, or checkpoint.keep_best=0"
        )
    names = ["val/loss", "val/accuracy", *(f"val/loss/{name}" for name in config.data.mix)]
    if config.objective == "pretrain":
        names.append("val/perplexity")
    if config.eval.every_n_steps is not None:
        names += ["eval/score", "eval/TASK"]
    if monitor not in names:
        meant = did_you_mean(nearest(monitor, names))
        yield f"checkpoint.monitor={monitor} is none of {', '.join(names)}{meant}"


def determinism_problems(config: Config) -> Iterator[str]:
    """Kernels that add in an order of their own each time, which torch's switch does not reach."""
    if not config.deterministic:
        return
    on_gpu = config.trainer.accelerator == "cuda"
    if config.task == "train" and config.model.attention in GPU_ATTENTION:
        yield (
            f"deterministic=true with model.attention={config.model.attention}: its backward pass adds in no "
            "fixed order; set model.attention=eager"
        )
    if config.task == "train" and config.model.fused_kernels:
        yield (
            "deterministic=true with model.fused_kernels=true: Liger's kernels promise no fixed order; set "
            "model.fused_kernels=false"
        )
    if on_gpu and config.quantization.name != "none":
        yield (
            f"deterministic=true with quantization={config.quantization.name} on a GPU: bitsandbytes' "
            "kernels promise no fixed order; set quantization=none"
        )


def against_problems(config: Config) -> Iterator[str]:
    """A run that is compared with itself."""
    if config.evaluate.against is not None and config.evaluate.against == config.run_dir:
        yield f"evaluate.against={config.evaluate.against} is run_dir too; name another run"


def submission_problems(config: Config) -> Iterator[str]:
    """A submission of several splits, or of a part of one."""
    if config.task != "evaluate" or not config.evaluate.submission:
        return
    splits = splits_answered(config)
    if len(splits) > 1:
        yield f"evaluate.submission=true packs one split, not {', '.join(splits)}; set generate.split=NAME"
    limits: dict[str, object] = {"data.max_examples": config.data.max_examples}
    if not config.evaluate.predictions:
        for name in ("limit", "limit_per_task", "tasks"):
            limits[f"eval.{name}"] = getattr(config.eval, name)
    for key, limit in limits.items():
        if limit is not None:
            yield f"evaluate.submission=true needs every row, but {key}={limit}; leave {key} out"


RULES: tuple[Rule, ...] = (
    range_problems,
    batch_problems,
    node_count_problems,
    data_problems,
    measure_problems,
    network_problems,
    export_problems,
    template_rules,
    resume_problems,
    allowance_problems,
    best_problems,
    determinism_problems,
    *GENERATION_RULES,
    evaluation_problems,
    path_problems,
    node_problems,
    submission_problems,
    against_problems,
    serve_problems,
)
