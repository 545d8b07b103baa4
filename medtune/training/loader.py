"""The training batches as one stream from a given step to the last, across epochs."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor

from medtune.models.soft_prompt import virtual_ids
from medtune.training import losses, source_losses
from medtune.training.virtual_tokens import with_virtual_tokens


class StepLoader:
    """Yields the micro batches of the steps ``first_step + 1`` to ``total_steps``.

    Lightning sees a single epoch of known length, so its own epoch counters never have to agree with
    the data's, and a fit may end or resume anywhere.

    Args:
        datamodule: Its ``train_dataloader()`` has a batch sampler with ``start(global_step)`` that
            goes on to the end of that step's epoch.
        first_step: Steps that are done already.
        total_steps: Steps of the whole fit.
    """

    def __init__(self, datamodule: Any, first_step: int, total_steps: int) -> None:
        self.datamodule = datamodule
        self.plan = datamodule.step_plan
        self.first_step = first_step
        self.total_steps = total_steps

    def __len__(self) -> int:
        # Lightning compares it with the micro batches of all steps, those before a resume included.
        return int(self.total_steps * self.plan.accumulation)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        loader = self.datamodule.train_dataloader()
        step = self.first_step
        while step < self.total_steps:
            epoch, done = self.plan.epoch_of(step)
            stop = min(step - done + self.plan.steps_of(epoch), self.total_steps)
            loader.batch_sampler.start(step)
            # An iterator of a DataLoader draws its workers' seed from the stream that dropout uses; a
            # resumed fit makes one more than an uninterrupted one.
            with torch.random.fork_rng(devices=[]):
                batches = iter(loader)
            yield from islice(batches, (stop - step) * self.plan.accumulation)
            step = stop


class StepData(L.LightningDataModule):
    """Gives Lightning the training rows as a :class:`StepLoader` and the validation rows as they are.

    Args:
        datamodule: With ``step_plan``, ``source_names``, ``train_dataloader`` and ``val_dataloader``.
        first_step: Steps that are done already.
        total_steps: Steps of the whole fit.
    """

    def __init__(self, datamodule: Any, first_step: int, total_steps: int) -> None:
        super().__init__()
        self.datamodule = datamodule
        self.first_step = first_step
        self.total_steps = total_steps
        self.by_source = len(datamodule.source_names) > 1

    def train_dataloader(self) -> StepLoader:
        """One stream over all steps that are left."""
        return StepLoader(self.datamodule, self.first_step, self.total_steps)

    def val_dataloader(self) -> Any:
        """The validation loader of the wrapped datamodule; an empty list when there is none."""
        return self.datamodule.val_dataloader()

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """See :func:`prepared`."""
        virtual = virtual_ids(self.trainer.lightning_module.model) if self.trainer else range(0)
        return prepared(batch, virtual, self.by_source)

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Moves the tensors; Lightning's own looks for some in every list, at a tenth of a millisecond."""
        return moved(batch, device)


def prepared(batch: dict[str, Any], virtual: range, by_source: bool) -> dict[str, Any]:
    """Adds what is cheap to know while the batch is on the CPU and would wait for the device later.

    ``columns``, see :func:`losses.learned_columns`; ``learned`` and ``next_labels``, see
    :func:`losses.learned_tokens`; ``tokens``, their number without padding; what
    :func:`source_losses.prepare` adds; and the tokens ``virtual`` of a trained prompt.
    """
    batch["tokens"] = int((batch["document_ids"] > 0).sum())
    if virtual:
        batch = with_virtual_tokens(batch, virtual)
    batch["columns"] = losses.learned_columns(batch["labels"])
    following = losses.next_labels(batch["labels"], batch["columns"])
    batch["learned"], batch["next_labels"] = losses.learned_tokens(following)
    source_losses.prepare(batch, by_source)
    return batch


def moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on ``device``."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }
