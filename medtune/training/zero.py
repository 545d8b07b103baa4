"""DeepSpeed's ZeRO through Lightning, mended where the two disagree, on GPUs and on CPU ranks."""

import argparse
import importlib
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import deepspeed
import lightning.pytorch as L
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn
from torch.optim import Optimizer

from medtune.models.placing import Prepare, WeightTypes, cast, parts
from medtune.models.shardable import make_shardable
from medtune.training.precision import kept_buffers
from medtune.training.restoring import not_taken_up

# Elements in a communication buffer on CPU ranks. Lightning's 200 million would cost 800 MB each.
CPU_BUCKET = 2_000_000


class ZeroStrategy(DeepSpeedStrategy):
    """Lightning's DeepSpeedStrategy, mended.

    - One division by the accumulated micro batches, not two.
    - Weights that are drawn or loaded whole on the CPU and then partitioned. Inside ``zero.Init``
      transformers' initialisation acts on emptied tensors and silently keeps torch's defaults
      (embeddings with a standard deviation of 1 instead of 0.02).
    - torch's own fused AdamW when the optimizer is offloaded, and no shared-memory operator on CPU ranks,
      so that nothing has to be compiled.
    - Buffers stay in float32, which DeepSpeed rounds to bfloat16 with the parameters.
    """

    clips_gradients = True

    def __init__(self, **arguments: Any) -> None:
        # Its warnings repeat what was chosen ("untested optimizer": torch's own AdamW).
        arguments.setdefault("logging_level", logging.ERROR)
        super().__init__(**arguments)
        assert isinstance(self.config, dict)
        self.config["zero_force_ds_cpu_optimizer"] = False
        self._given = set(arguments)

    def setup_environment(self) -> None:
        """Lets CPU ranks pass Lightning's check for GPUs."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Starts the process group through DeepSpeed."""
        reset_seed()
        self.set_world_ranks()
        if self.root_device.type == "cpu":
            self._prepare_cpu()
        self._init_deepspeed_distributed()

    def _prepare_cpu(self) -> None:
        # DeepSpeed compiles an operator for all-reduces within a machine at its first start on CPUs;
        # without it gloo does them, and a machine without a compiler can train.
        # (By its full name: `deepspeed.comm.torch` as an attribute is torch itself.)
        importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
        assert isinstance(self.config, dict)
        settings = self.config["zero_optimization"]
        sizes = dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size"), CPU_BUCKET)
        settings.update({key: size for key, size in sizes.items() if key not in self._given})
        for key in ("stage3_prefetch_bucket_size", "stage3_max_live_parameters", "stage3_max_reuse_distance"):
            settings.setdefault(key, CPU_BUCKET)

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Builds outside ``zero.Init``; :meth:`place_model` partitions."""
        yield

    def place_model(self, model: nn.Module, prepare: Prepare) -> nn.Module:
        """Stage 3: partitions the model, a part at a time: no device ever holds it whole."""
        self._init_config_if_needed()
        assert isinstance(self.config, dict)
        halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
        half = next((dtype for key, dtype in halves.items() if self.config.get(key, {}).get("enabled")), None)
        for part in parts(model):
            prepare(part)
            if self.zero_stage_3:
                make_shardable(part)
            if half is not None:
                # DeepSpeed refuses partitions of another type than its own.
                cast(part, WeightTypes(half, half))
            if self.zero_stage_3:
                deepspeed.zero.Init(
                    module=part, config_dict_or_path={"train_micro_batch_size_per_gpu": 1, **self.config}
                )
            else:
                part.to(self.root_device)
        for owner in model.modules():
            for name, buffer in owner.named_buffers(recurse=False):
                owner._buffers[name] = buffer.to(self.root_device)
        return model

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Optimizer]:
        """Calls ``deepspeed.initialize`` with a rank instead of a GPU's index, which a CPU has not."""
        engine, wrapped, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, wrapped

    def setup(self, trainer: L.Trainer) -> None:
        """Wraps the model, which Lightning (bf16-true) and DeepSpeed (either bf16) cast, buffers included."""
        assert self.lightning_module is not None
        with kept_buffers(self.lightning_module):
            super().setup(trainer)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads model and optimizer in place; what DeepSpeed says when it cannot is told in one message."""
        try:
            return super().load_checkpoint(checkpoint_path, weights_only)
        except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
            raise not_taken_up(Path(checkpoint_path).parent, error) from error

    def backward(self, closure_loss: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Keeps DeepSpeed from dividing by the accumulation again: Lightning has done so."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)
