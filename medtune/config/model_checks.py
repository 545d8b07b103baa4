"""The rules between settings about the network: its weights, kernels, adapters and quantisation."""

import importlib.util
from collections.abc import Iterator

from medtune.config.load import show
from medtune.config.schema import ALL_LINEAR, GPU_ATTENTION, WHOLE_MODELS, Config
from medtune.config.suggest import did_you_mean, nearest

INFINITY = float("inf")
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


def network_problems(config: Config) -> Iterator[str]:
    """Everything about the network that the settings alone show."""
    yield from quantization_problems(config)
    yield from adapter_problems(config)
    yield from model_problems(config)
    yield from kernel_problems(config)
    yield from dtype_problems(config)
    yield from rope_problems(config)
    yield from embedding_problems(config)


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
