"""What optimizers, precisions and compilation cannot do; imports nothing heavy, so the launcher may ask."""

import importlib.util
import shutil
from collections.abc import Iterator

from medtune.config.schema import Config
from medtune.runtime.families import FLOAT16_OVERFLOWS, float16_refusal
from medtune.training.strategies import strategy_name

PACKAGES = {"galore": "galore_torch", "apollo": "apollo_torch"}
WITH_B_MATRICES = ("lora", "rslora", "dora", "pissa")
COMPILERS = ("g++", "clang++", "c++")

# Optimizers that cannot work on weights which a strategy has divided, and why.
WHOLE_MATRICES = "it reads the rows and columns of whole matrices"
DIVIDED = {
    "zero": {
        "adafactor": f"{WHOLE_MATRICES}, and ZeRO joins all weights into one vector",
        "galore": f"{WHOLE_MATRICES}, and ZeRO joins all weights into one vector",
        "apollo": f"{WHOLE_MATRICES}, and ZeRO joins all weights into one vector",
    },
    "fsdp": {
        "adafactor": "torch has no norm over a distributed tensor in place, which it takes of each matrix",
        "galore": f"{WHOLE_MATRICES}, of which each rank has a part",
        "apollo": f"{WHOLE_MATRICES}, of which each rank has a part",
        **dict.fromkeys(
            ("adamw_8bit", "paged_adamw", "paged_adamw_8bit", "lion", "lion_8bit"),
            "bitsandbytes' kernels do not take torch's distributed tensors",
        ),
    },
}


def optimizer_problems(config: Config) -> Iterator[str]:
    """An optimizer whose package, device or strategy is not there."""
    if config.task != "train":
        return
    name, strategy = config.optim.name, strategy_name(config)
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        yield (
            f"optim={name} needs the package {package.replace('_', '-')}, which is not installed: "
            "pip install 'medtune[optimizers]', or set optim=adamw"
        )
    if name.startswith("paged") and config.trainer.accelerator == "cpu":
        yield (
            f"optim={name} moves its state between GPU and main memory, and this run is on a CPU; set "
            f"optim={name.removeprefix('paged_')}"
        )
    reason = DIVIDED.get(strategy, {}).get(name)
    if reason is not None:
        yield f"optim={name} with strategy={strategy}: {reason}; set optim=adamw, or strategy=ddp"
    offloads = strategy == "zero" and config.strategy.get("offload_optimizer")
    if offloads and name not in ("adamw", "sgd") and reason is None:
        yield (
            f"optim={name} with strategy.offload_optimizer=true: bitsandbytes would update on the GPU what "
            "lies in main memory; set optim=adamw"
        )
    adapter = config.adapter.name
    if config.optim.lora_plus_ratio is not None and adapter not in WITH_B_MATRICES:
        yield f"optim.lora_plus_ratio: adapter={adapter} has none of LoRA's B matrices; leave it out"


def precision_problems(config: Config) -> Iterator[str]:
    """Loss scaling where it does not exist, or for a family that overflows float16."""
    trainer = config.trainer
    if config.task != "train" or trainer.precision != "16-mixed":
        return
    if strategy_name(config) == "fsdp":
        yield "trainer.precision=16-mixed: FSDP2 scales no losses here; set trainer.precision=bf16-mixed"
    family = config.model.model_type or config.model.architecture.get("model_type")
    reason = FLOAT16_OVERFLOWS.get(str(family))
    if reason is not None:
        yield float16_refusal(str(family), reason)


def compile_problems(config: Config) -> Iterator[str]:
    """Compilation without constant shapes, or without a compiler."""
    if config.task != "train" or not config.trainer.compile:
        return
    if config.data.packing == "none":
        yield (
            "trainer.compile=true with data.packing=none: rows that are padded to one shape would be mostly "
            "padding; set data.packing=bfd, or trainer.compile=false"
        )
    if config.adapter.name == "prompt_tuning":
        yield (
            "trainer.compile=true with adapter=prompt_tuning: rows grow with the number of their documents, "
            "so they have no one shape; set trainer.compile=false"
        )
    if strategy_name(config) == "zero":
        yield (
            "trainer.compile=true with strategy=zero: DeepSpeed gathers weights in hooks that a compiled "
            "layer does not run; set strategy=fsdp or ddp, or trainer.compile=false"
        )
    if config.trainer.accelerator == "cpu" and not any(map(shutil.which, COMPILERS)):
        yield "trainer.compile=true on a CPU needs a C++ compiler (g++); set trainer.compile=false"


def training_problems(config: Config) -> Iterator[str]:
    """All of them."""
    yield from optimizer_problems(config)
    yield from precision_problems(config)
    yield from compile_problems(config)
