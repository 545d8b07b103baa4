"""One network trained in one way on packed rows, in a process of its own; :mod:`.cases` starts it.

What is known so far lies in a file, so that a process that is killed for its memory has left its forecast.
"""

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import FOLDER
from benchmarks.training.flops import Sizes, Work, bf16_peak, needed_flops, published_flops
from benchmarks.training.forecast import Recipe, forecast
from benchmarks.training.runs import configuration, fit_with, long_records
from medtune.runtime.hardware import PROJECT

if TYPE_CHECKING:
    from medtune.config.schema import Config

MODES = {
    "full": ("adapter=none", "trainer.precision=bf16-true"),
    "lora": ("adapter=lora", "trainer.precision=bf16-mixed"),
    "qlora": ("adapter=lora", "quantization=nf4", "trainer.precision=bf16-mixed"),
}
WARM_UP = 3  # kernels are compiled, the optimizer's moments come into being, the allocator finds its blocks


@dataclass(frozen=True)
class Case:
    """What is run.

    Attributes:
        model: Option of conf/model.
        mode: Of ``MODES``.
        length: Tokens in a row.
        device: ``cuda`` or ``cpu``.
        rows: In one pass.
        accumulation: Passes in a step.
        steps: On the clock.
        checkpointing: ``on``, ``off``, or ``auto`` for what the product takes.
        layers: Instead of the model's own number.
        hidden: Instead of the model's own width.
    """

    model: str
    mode: str
    length: int
    device: str
    rows: int = 1
    accumulation: int = 4
    steps: int = 8
    checkpointing: str = "auto"
    layers: int | None = None
    hidden: int | None = None

    @property
    def name(self) -> str:
        """Its settings in a few words."""
        return f"{self.model} {self.mode} {self.length}"

    def overrides(self) -> list[str]:
        """The product's settings for it."""
        cut = {"num_hidden_layers": self.layers}
        if self.hidden is not None:
            heads = max(1, self.hidden // 64)
            cut |= {"hidden_size": self.hidden, "intermediate_size": 3 * self.hidden}
            cut |= {"num_attention_heads": heads}
        recomputed = {"on": "true", "off": "false", "auto": "null"}[self.checkpointing]
        return [
            f"model={self.model}",
            "model.init=random",
            f"model.tokenizer={PROJECT / 'data' / 'sample' / 'tokenizer'}",
            f"model.gradient_checkpointing={recomputed}",
            *(f"model.{key}={value}" for key, value in cut.items() if value is not None),
            *MODES[self.mode],
            *long_records(),
            "data.packing=bfd",
            f"data.sequence_length={self.length}",
            f"data.micro_batch_size={self.rows}",
            f"data.global_batch_size={self.rows * self.accumulation}",
            f"trainer.accelerator={self.device}",
            "trainer.devices=1",
            f"trainer.max_steps={WARM_UP + self.steps + 1}",
            "trainer.progress=none",
            f"trainer.val_every_n_steps={WARM_UP + self.steps + 2}",
        ]


class MeasuredError(Exception):
    """Ends a fit before its last step, whose checkpoint would be as large as the model."""


@dataclass
class Record:
    """What is known of a case.

    Attributes:
        file: Where it is kept.
        values: By name; ``failed`` says why there is no speed.
    """

    file: Path
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, **values: Any) -> None:
        """Keeps more."""
        self.values |= values
        self.file.write_text(json.dumps(self.values))


def main(case: Case, record: Record) -> None:
    """Forecasts, runs and records ``case``."""
    import torch

    if case.device == "cuda":
        record.add(gpu=torch.cuda.get_device_name())
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        config = configuration(Path(folder), case.overrides())
        sizes, recipe = shapes_of(config)
        record.add(sizes=asdict(sizes), recipe=asdict(recipe))
        record.add(forecast=forecast_of(case, sizes, recipe, learned_share=1.0))
        try:
            run(case, config, sizes, recipe, record)
        except MeasuredError:
            pass
        except torch.OutOfMemoryError as error:
            record.add(failed="out of memory", message=str(error).splitlines()[0])


def forecast_of(case: Case, sizes: Sizes, recipe: Recipe, learned_share: float) -> dict[str, float]:
    """The forecast of ``case`` in bytes, by part and in all."""
    from medtune.training.token_losses import LOGITS_AT_ONCE

    tokens = case.rows * case.length
    found = forecast(sizes, recipe, tokens, int(tokens * learned_share), LOGITS_AT_ONCE)
    return {**asdict(found), "total": found.total}


def shapes_of(config: "Config") -> tuple[Sizes, Recipe]:
    """What the network is and how it is trained, without its weights."""
    import torch

    from medtune.models.load import load_model
    from medtune.models.placing import base_model, decoder_layers, training_types

    # Quantised weights would be made at once.
    plain = replace(config, quantization=replace(config.quantization, name="none"))
    model: Any = load_model(plain, for_training=True, place=False)
    base: Any = base_model(model)
    network = base.config
    adapters = {name: p for name, p in model.named_parameters() if "lora_" in name}
    inside = sum(p.numel() for layer in decoder_layers(base) for p in layer.parameters())
    adapted = [
        module.in_features for name, module in model.named_modules() if name.endswith("lora_A.default")
    ]
    num_adapters = sum(p.numel() for p in adapters.values())
    head_size = getattr(network, "head_dim", None) or network.hidden_size // network.num_attention_heads
    key_heads = getattr(network, "num_key_value_heads", None) or network.num_attention_heads
    sizes = Sizes(
        parameters=sum(p.numel() for p in model.parameters()) - num_adapters,
        layers=network.num_hidden_layers,
        hidden=network.hidden_size,
        attention=network.num_attention_heads * head_size,
        keys=key_heads * head_size,
        intermediate=getattr(network, "intermediate_size", 4 * network.hidden_size),
        vocabulary=network.vocab_size,
        body=inside - num_adapters,
        adapters=num_adapters,
        adapted_inputs=sum(adapted),
    )
    types = training_types(config, base.dtype)
    return sizes, Recipe(
        trains_all=not adapters,
        quantized=config.quantization.name == "nf4",
        trained_bytes=types.trained.itemsize,
        frozen_bytes=types.frozen.itemsize,
        product_bytes=torch.float32.itemsize if config.trainer.precision == "32-true" else 2,
        checkpointing=any(getattr(module, "gradient_checkpointing", False) for module in base.modules()),
    )


def run(case: Case, config: "Config", sizes: Sizes, recipe: Recipe, record: Record) -> None:
    """Runs the product's fit up to the last step on the clock, and records what it was like."""
    import lightning.pytorch as L

    memory = Memory(case.device)

    class Measure(L.Callback):
        def __init__(self) -> None:
            self.began = 0.0
            self.computed = self.learned = 0
            # On the device, which is not waited for.
            self.useful: Any = 0
            self.pairs: Any = 0

        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
            step = trainer.global_step
            if index % trainer.accumulate_grad_batches == 0 and step == WARM_UP:
                memory.reset()
                self.began = time.perf_counter()
            if index % trainer.accumulate_grad_batches == 0 and step == WARM_UP + case.steps:
                memory.wait()
                self.finish(time.perf_counter() - self.began)
            if step >= WARM_UP:
                inside = batch["document_ids"] > 0
                self.useful += inside.sum()
                self.pairs += ((batch["position_ids"] + 1) * inside).sum()
                self.computed += inside.numel()
                self.learned += len(batch["next_labels"])

        def finish(self, seconds: float) -> None:
            work = Work(int(self.useful), self.computed, self.learned, int(self.pairs))
            record.add(seconds=seconds, peak_bytes=memory.peak(), work=asdict(work))
            record.add(forecast=forecast_of(case, sizes, recipe, work.learned / work.computed))
            record.add(**speeds(case, sizes, recipe, work, seconds, record.values.get("gpu")))
            raise MeasuredError

    fit_with(config, Measure)


def speeds(
    case: Case, sizes: Sizes, recipe: Recipe, work: Work, seconds: float, gpu: str | None
) -> dict[str, float]:
    """Tokens and operations per second, and both utilisations where the GPU's peak is known."""
    needed = needed_flops(sizes, work, recipe.trains_all) / seconds
    found = {
        "useful_per_s": work.useful / seconds,
        "computed_per_s": work.computed / seconds,
        "learned_per_s": work.learned / seconds,
        "needed_flops_per_s": needed,
    }
    peak = bf16_peak(gpu) if gpu else None
    if peak is not None:
        found["mfu"] = needed / peak
        if recipe.trains_all:
            found["published_mfu"] = published_flops(sizes, work, case.length) / seconds / peak
    return found


class Memory:
    """The most memory in use since :meth:`reset`.

    Args:
        device: On ``cuda`` what tensors take there; on ``cpu`` what the process has grown by since now.
    """

    def __init__(self, device: str) -> None:
        self.cuda: Any = None
        if device == "cuda":
            import torch

            self.cuda = torch.cuda
        self.before = resident_bytes()

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.cuda:
            self.cuda.synchronize()

    def reset(self) -> None:
        """Starts anew; a CPU process cannot."""
        self.wait()
        if self.cuda:
            self.cuda.reset_peak_memory_stats()

    def peak(self) -> int:
        """In bytes."""
        return int(self.cuda.max_memory_allocated()) if self.cuda else resident_bytes() - self.before


def resident_bytes() -> int:
    """The most that this process has held so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(Case(**json.loads(sys.argv[1])), Record(Path(sys.argv[2])))
