"""The LightningModules: continued pretraining and supervised fine-tuning share one step."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medtune.config.schema import Config
from medtune.models.attention import attention_inputs
from medtune.models.fused import use_fused_kernels, use_fused_layers
from medtune.models.load import is_quantized, load_model
from medtune.models.placing import PRODUCTS, base_model, decoder_layers, place_whole, prepare_for
from medtune.runtime.families import NATIVE_FAMILIES
from medtune.training import losses
from medtune.training.embedding_noise import EmbeddingNoise
from medtune.training.optim import build_optimizer
from medtune.training.restoring import check_weights_fit
from medtune.training.schedule import build_schedule, learning_rate_factor
from medtune.training.source_losses import SourceSums
from medtune.training.strategies import layout_of
from medtune.training.token_losses import TokenLosses
from medtune.training.working_copy import DIVIDED, WorkingCopy

Batch = dict[str, Any]  # docs/architecture.md, and what loader.StepData adds


class SeenRows(NamedTuple):
    """A micro batch that was learned from, for the message about a loss that is not finite."""

    step: int
    epoch: int
    rows: list[int]
    loss_sum: Tensor


class LanguageModelModule(L.LightningModule):
    """Trains a causal language model on the loss of :mod:`medtune.training.losses`.

    Args:
        config: The settled configuration.
        total_steps: Optimizer steps of the whole fit, which the schedule is stretched over.
        build_model: Makes the network, in any mode, on the CPU or without values on the meta device. Default:
            ``models.load.load_model``.
        source_names: Of the data, in the order of the batches' ``source_ids``. Losses by source are kept
            when there are several.
    """

    def __init__(
        self,
        config: Config,
        total_steps: int,
        build_model: Callable[[], nn.Module] | None = None,
        source_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.total_steps = total_steps
        self.build_model: Callable[[], Any] = build_model or (
            lambda: load_model(replace(config, weights=None), for_training=True, place=False)
        )
        self.model: Any = None
        self.token_losses: Any = None  # made with the model
        # An adapter's checkpoint leaves the frozen base out, so loading cannot insist on every key.
        self.strict_loading = config.adapter.name == "none"
        self.objective = losses.Objective(config.loss.label_smoothing, config.loss.z_loss)
        self.embedding_noise: EmbeddingNoise | None = None  # made with the model
        self.working_copy: WorkingCopy | None = None  # likewise, where no rank has whole weights
        self.step_sum: Tensor | float = 0.0  # of what is minimised
        self.step_cross_entropy: Tensor | float = 0.0  # where that is something else
        names = source_names if len(source_names) > 1 else ()
        self.step_sources = SourceSums(names)
        self.val_sums: Tensor | None = None
        self.val_sources = SourceSums(names)
        self.val_results: dict[str, float] = {}
        self.grad_norm: Tensor | None = None
        self.seen_rows: list[SeenRows] = []

    def configure_model(self) -> None:
        """Builds the network and lets the strategy place it; a second call does nothing.

        Values are drawn on the CPU under every strategy, so that one seed gives one set of weights.
        """
        if self.model is not None:
            return
        strategy = self.trainer.strategy
        with torch.device("cpu"):
            model = self.build_model()
        check_takes_documents(base_model(model))
        if self.config.eval.every_n_steps and layout_of(self.config) in DIVIDED:
            self.working_copy = self._copied(model)
        if use_fused_kernels(self.config):
            use_fused_layers(base_model(model))
        if self.config.trainer.compile:
            for layer in decoder_layers(model):
                layer.compile(dynamic=False)
        self.token_losses = TokenLosses(model, use_fused_kernels(self.config), self.objective)
        if self.config.loss.neftune_alpha is not None:
            self.embedding_noise = EmbeddingNoise(model, self.config.loss.neftune_alpha)
        prepare = prepare_for(model, self.config, for_training=True)
        place = getattr(strategy, "place_model", None)
        if place is not None:
            model = place(model, prepare)
        elif not is_quantized(model):
            place_whole(model, prepare, strategy.root_device)
        self.model = model.train()

    def _copied(self, model: nn.Module) -> WorkingCopy:
        """What makes whole copies of the network, told before its layers are changed for the fit."""
        from medtune.models.shardable import make_shardable  # here, since it draws bitsandbytes in

        make_shardable(model)  # as the strategy would
        return WorkingCopy(model, self.config)

    def network_inputs(self, batch: Batch) -> dict[str, Any]:
        """The network's keyword arguments for a batch."""
        settings = self.model.config
        inputs: dict[str, Any] = attention_inputs(
            model_type=settings.model_type,
            attention=settings._attn_implementation,
            document_ids=batch["document_ids"],
            position_ids=batch["position_ids"],
            packed=batch["packed"],
            dtype=self._attention_dtype(),
        )
        return {"input_ids": batch["input_ids"], **inputs}

    def _attention_dtype(self) -> torch.dtype:
        return PRODUCTS[self.config.trainer.precision]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One micro batch; its loss is scaled so that the step's gradients are those of the definition."""
        by_source = bool(self.step_sources.names)
        with self.embedding_noise.on(batch["document_ids"]) if self.embedding_noise else nullcontext():
            found = self.token_losses(self.network_inputs(batch), batch, apart=by_source, training=True)
        token_losses, terms = (found, found) if self.objective.is_plain else found
        if by_source:
            self.step_sources.add(token_losses, batch)
        minimised = terms.sum()
        self.step_sum = self.step_sum + minimised.detach()
        if not self.objective.is_plain:
            self.step_cross_entropy = self.step_cross_entropy + token_losses.sum()
        step = self.trainer.global_step + 1
        self.seen_rows.append(SeenRows(step, batch["epoch"], batch["rows"], minimised.detach()))
        return losses.step_loss(
            minimised, batch["step_tokens"], self.trainer.world_size, self.trainer.accumulate_grad_batches
        )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clips the gradient and keeps its norm; DeepSpeed does both itself."""
        if getattr(self.trainer.strategy, "clips_gradients", False):
            return
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        limit = self.config.trainer.gradient_clip_norm
        if limit is None:
            gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
            self.grad_norm = torch.nn.utils.get_total_norm(gradients)
        else:
            self.grad_norm = torch.nn.utils.clip_grad_norm_(trained, limit)

    def on_validation_epoch_start(self) -> None:
        """Starts the sums of one validation."""
        self.val_sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        self.val_sources.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds one batch's cross-entropy, correct tokens and learned tokens."""
        assert self.val_sums is not None
        token_losses, correct = self.token_losses(self.network_inputs(batch), batch, correct=True)
        if self.val_sources.names:
            self.val_sources.add(token_losses, batch)
        self.val_sums[0] += token_losses.sum()
        self.val_sums[1] += correct.sum()
        self.val_sums[2] += len(token_losses)

    def on_validation_epoch_end(self) -> None:
        """Turns the sums over all ranks into ``val/loss``, that of each source, and ``val/accuracy``."""
        assert self.val_sums is not None
        sums = torch.cat([self.val_sums, self.val_sources.to_tensor(self.device)])
        ce_sum, correct, count, *by_source = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        self.val_results = self.validation_metrics(ce_sum / max(1, count), correct / max(1, count))
        self.val_results |= self.val_sources.means("val/loss", by_source)
        # So that Lightning's own callbacks (EarlyStopping) can watch them.
        self.log_dict(self.val_results, sync_dist=False, rank_zero_only=False)

    def validation_metrics(self, loss: float, accuracy: float) -> dict[str, float]:
        """What a validation reports, by name."""
        return {"val/loss": loss, "val/accuracy": accuracy}

    def reported_by_validation(self) -> list[str]:
        """The names of what a validation reports."""
        own = self.validation_metrics(0.0, 0.0)
        return [*own, *(f"val/loss/{name}" for name in self.val_sources.names)]

    def configure_optimizers(self) -> Any:
        """The optimizer, and the schedule stepped with every update."""
        # Loss scaling has to see the gradients before the update, which the fused one scales back itself.
        fused = self.config.trainer.precision != "16-mixed"
        optimizer = build_optimizer(self.model, self.config.optim, fused)
        schedule = build_schedule(optimizer, self.config.schedule, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def learning_rate_of(self, step: int) -> float:
        """The learning rate that update number ``step`` (from 1) used."""
        return self.config.optim.lr * learning_rate_factor(step - 1, self.config.schedule, self.total_steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the weights of another network by name, before torch lists every tensor of it."""
        check_weights_fit(checkpoint, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves frozen weights out: an adapter's checkpoint holds the adapter."""
        if self.strict_loading or "state_dict" not in checkpoint:
            return
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        state: Mapping[str, Any] = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name in trained}


def check_takes_documents(model: nn.Module) -> None:
    """Holds that a family whose packed rows go by document ids has the network that reads them.

    Transformers' own of the same family would swallow them without a word, and its documents see each other.
    """
    if model.config.model_type in NATIVE_FAMILIES:  # type: ignore[union-attr,operator]
        assert "document_ids" in inspect.signature(model.forward).parameters, type(model)


class PretrainModule(LanguageModelModule):
    """Continued pretraining: every token is learned, so perplexity means something."""

    def validation_metrics(self, loss: float, accuracy: float) -> dict[str, float]:
        """Adds ``val/perplexity``."""
        return {**super().validation_metrics(loss, accuracy), "val/perplexity": losses.exp_loss(loss)}


class SFTModule(LanguageModelModule):
    """Supervised fine-tuning: the responses are learned; the data's labels say which tokens those are."""


MODULES: dict[str, type[LanguageModelModule]] = {"pretrain": PretrainModule, "sft": SFTModule}
