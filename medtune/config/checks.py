"""The rules between settings; all that are broken are told together, before anything heavy loads."""

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medtune.config.data_checks import data_problems
from medtune.config.keys import schema_keys, section_names, value_of
from medtune.config.load import show
from medtune.config.nodes import node_problems
from medtune.config.paths import path_problems
from medtune.config.schema import ALL_LINEAR, GPU_ATTENTION, WHOLE_MODELS, Config
from medtune.config.suggest import did_you_mean, nearest, nearest_key
from medtune.config.templates import template_problems
from medtune.config.unused import has_validation

Rule = Callable[[Config], Iterable[str]]

INFINITY = float("inf")
GGUF_CONVERTER = "convert_hf_to_gguf.py"
ROPE_LENGTH = "original_max_position_embeddings"
# Ways to stretch rotary positions: the keys that each needs beside the factor, and those that it may have.
ROPE_TYPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "linear": ((), ()),
    "dynamic": ((), ()),
    "yarn": (
        (),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", ROPE_LENGTH),
    ),
    "longrope": (("short_factor", "long_factor"), ("attention_factor", ROPE_LENGTH)),
    "llama3": (("low_freq_factor", "high_freq_factor"), (ROPE_LENGTH,)),
}
ROPE_KEYS = ("rope_type", "factor", "rope_theta", "partial_rotary_factor")
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
    Range("generate.max_new_tokens", 1),
    Range("generate.batch_tokens", 1),
    Range("generate.temperature", 0),
    Range("generate.top_p", 0, 1, above=True),
    Range("generate.top_k", 0),
    Range("generate.repetition_penalty", 0, above=True),
    Range("launcher.master_port", 1, 65535),
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


def quantization_problems(config: Config) -> Iterator[str]:
    """A quantised base, which cannot be trained itself."""
    name = config.quantization.name
    if config.task == "train" and name != "none" and config.adapter.name in WHOLE_MODELS:
        kept = "" if config.adapter.name == "none" else f" with adapter={config.adapter.name}"
        yield f"quantization={name} freezes the weights, so there is nothing to train{kept}; add adapter=lora"
    if config.task == "train" and name == "int8" and config.adapter.name == "dora":
        yield (
            "quantization=int8 with adapter=dora: DoRA needs the norms of the weights in every pass, and "
            "peft loses the scales of 8-bit weights when it asks for them; use quantization=nf4, or "
            "adapter=lora"
        )


def adapter_problems(config: Config) -> Iterator[str]:
    """What an adapter cannot be made of; an empty list of targets would otherwise pass for null."""
    adapter = config.adapter
    if config.task != "train":
        return
    targets = adapter.target_modules
    if adapter.name not in WHOLE_MODELS and targets == []:
        yield (
            "adapter.target_modules=[] leaves nothing to train; name modules, or set "
            "adapter.target_modules=null (model.lora_targets, else every linear layer but the head)"
        )
    is_names = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    if targets is not None and targets != ALL_LINEAR and not is_names:
        yield (
            f"adapter.target_modules={show(targets)} must be a list of module names, such as "
            f"[q_proj,v_proj], or {ALL_LINEAR}"
        )
    if adapter.name == "freeze" and not (adapter.first_layers or adapter.last_layers or adapter.trainable):
        yield (
            "adapter=freeze names nothing to train; set adapter.last_layers=N, adapter.first_layers=N or "
            "adapter.trainable=[PATTERN]"
        )
    yield from earlier_adapter_problems(config)


def earlier_adapter_problems(config: Config) -> Iterator[str]:
    """Earlier adapters that the new one cannot go on from, or lie on."""
    adapter = config.adapter
    for key in ("start", "stack"):
        paths = getattr(adapter, key)
        if paths and adapter.name in WHOLE_MODELS:
            yield (
                f"adapter.{key}={show(paths)} needs an adapter to train; adapter={adapter.name} trains the "
                f"model itself: fold the earlier one in with adapter.merge, or set adapter=lora"
            )
    if adapter.start and adapter.name == "pissa":
        yield (
            f"adapter.start={adapter.start}: pissa is a way to begin, and what it writes is a LoRA adapter; "
            "go on with adapter=lora"
        )
    if adapter.stack and adapter.name in ("dora", "vera", "ia3", "prompt_tuning"):
        yield (
            f"adapter.stack={show(adapter.stack)} with adapter={adapter.name}: only low-rank updates add up "
            "(lora, rslora, pissa); fold the earlier ones in with adapter.merge"
        )


def model_problems(config: Config) -> Iterator[str]:
    """A model that the settings do not determine."""
    if config.task == "evaluate" and config.evaluate.predictions:
        return
    model = config.model
    if model.path is None and model.init == "pretrained" and config.weights is None:
        yield (
            f"model.path is not set, and model={model.name} needs it; "
            "set model.path=FOLDER, or model.init=random"
        )
    has_type = model.model_type is not None or "model_type" in model.architecture
    if model.path is None and model.init == "random" and not has_type:
        yield "model.init=random without model.path needs model.model_type (llama, baichuan, ...)"
    if config.task == "export" and config.weights is None and model.init == "random":
        yield "task=export has nothing to export; set weights=RUN_DIR"


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


def kernel_problems(config: Config) -> Iterator[str]:
    """Kernels that the device, the precision or the machine does not have."""
    model, on_gpu = config.model, config.trainer.accelerator == "cuda"
    if config.task != "train":
        return
    if model.attention in GPU_ATTENTION and not on_gpu:
        why = {
            "flex_attention": "torch has no backward pass for it on CPUs",
            "flash_attention_2": "its kernels are for GPUs",
        }
        yield f"model.attention={model.attention}: {why[model.attention]}; set model.attention=sdpa"
    elif model.attention == "flash_attention_2":
        if config.trainer.precision == "32-true":
            yield (
                "model.attention=flash_attention_2 computes in half precision only, but trainer.precision="
                "32-true; set trainer.precision=bf16-mixed, or model.attention=flex_attention"
            )
        if importlib.util.find_spec("flash_attn") is None:
            yield (
                "model.attention=flash_attention_2 needs the package flash_attn, which is not installed: pip "
                "install flash-attn --no-build-isolation, or set model.attention=flex_attention"
            )
    if model.fused_kernels and not on_gpu:
        yield "model.fused_kernels=true: Liger's kernels are for GPUs; set model.fused_kernels=null"
    elif model.fused_kernels and importlib.util.find_spec("liger_kernel") is None:
        yield (
            "model.fused_kernels=true needs the package liger_kernel, which is not installed: "
            "pip install 'medtune[gpu]', or set model.fused_kernels=null"
        )


def dtype_problems(config: Config) -> Iterator[str]:
    """A frozen base in one half precision below products in the other, which autocast cannot mix."""
    model, precision = config.model, config.trainer.precision
    other = {"bf16-mixed": "float16", "16-mixed": "bfloat16"}.get(precision)
    if config.task == "train" and config.adapter.name != "none" and model.dtype == other:
        right = "bfloat16" if other == "float16" else "float16"
        yield f"model.dtype={other} does not go with trainer.precision={precision}; set model.dtype={right}"


def rope_problems(config: Config) -> Iterator[str]:
    """A stretching of rotary positions that transformers does not have, or that says nothing."""
    scaling = config.model.rope_scaling
    if not scaling:
        return
    kind, factor = scaling.get("rope_type"), scaling.get("factor")
    if kind not in ROPE_TYPES:
        meant = did_you_mean(nearest(str(kind), ROPE_TYPES))
        yield f"model.rope_scaling.rope_type={show(kind)} is none of {', '.join(ROPE_TYPES)}{meant}"
    if type(factor) not in (int, float) or not 1 <= float(str(factor)) < INFINITY:
        yield f"model.rope_scaling.factor={show(factor)} must be at least 1: the new context by the old one"
    needed, allowed = ROPE_TYPES.get(str(kind), ((), ()))
    known = (*ROPE_KEYS, *needed, *allowed)
    for key in scaling if kind in ROPE_TYPES else ():
        if key not in known:
            meant = did_you_mean(nearest(str(key), known))
            yield f"model.rope_scaling.{key}: rope_type={kind} knows {', '.join(known)}{meant}"
    for key in needed:
        if key not in scaling:
            yield f"model.rope_scaling.{key} is missing, which rope_type={kind} needs"


def embedding_problems(config: Config) -> Iterator[str]:
    """New rows of an embedding that nobody would train; which modules hold them, the worker knows."""
    adapter = config.adapter
    trained = adapter.modules_to_save or adapter.trainable or adapter.first_layers or adapter.last_layers
    is_start = adapter.start is not None  # its own modules_to_save decide
    if config.task == "train" and config.model.resize_embeddings and adapter.name != "none":
        if (trained or is_start) and adapter.name != "prompt_tuning":
            return
        yield (
            f"model.resize_embeddings=true adds rows to the embedding, which adapter={adapter.name} "
            "would leave as they are drawn; train with adapter=none, or name the embedding and the head in "
            f"adapter.{'trainable' if adapter.name == 'freeze' else 'modules_to_save'}"
        )


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
    if not has_validation(config):
        yield (
            f"checkpoint.keep_best={config.checkpoint.keep_best} chooses by {monitor}, but "
            "nothing is held out for validation; set data.validation_size, or checkpoint.keep_best=0"
        )
    names = ["val/loss", "val/accuracy", *(f"val/loss/{name}" for name in config.data.mix)]
    if config.objective == "pretrain":
        names.append("val/perplexity")
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


RULES: tuple[Rule, ...] = (
    range_problems,
    batch_problems,
    node_count_problems,
    quantization_problems,
    adapter_problems,
    data_problems,
    model_problems,
    export_problems,
    kernel_problems,
    dtype_problems,
    rope_problems,
    embedding_problems,
    template_rules,
    resume_problems,
    allowance_problems,
    best_problems,
    determinism_problems,
    path_problems,
    node_problems,
)
