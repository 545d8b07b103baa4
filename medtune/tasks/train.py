"""``task=train``: fit, then generate and score what was held out."""

import gc
from dataclasses import asdict

from medtune.config.schema import Config
from medtune.data.datamodule import PackedDataModule
from medtune.data.tokens.prepare import tokenizer_source
from medtune.runtime.errors import Interrupted
from medtune.runtime.ranks import gather, global_rank, world_size
from medtune.runtime.record import RunFolder, merge_json
from medtune.tasks.during import SubsetEvaluator
from medtune.tasks.evaluate import evaluate_splits, record_scores
from medtune.training.card import write_card
from medtune.training.fit import FitResult, fit
from medtune.training.plots import plot_loss


def run(config: Config, folder: RunFolder) -> None:
    """Leaves metrics, plots, checkpoints, the model, and, where a split is held out, its scores.

    Raises:
        Interrupted: A signal ended the fit; its checkpoint is whole.
    """
    result = train(config, folder)
    if global_rank() == 0:
        merge_json(folder.result_file, asdict(result))
        plot_loss(folder.metrics_file, folder.plots / "loss.png")
    if result.signal_number:
        raise Interrupted(result.signal_number, f"stopped after step {result.global_step}")
    gc.collect()  # the fit's tensors go before the model is loaded anew
    gather(None)  # the model is written by rank zero; the others wait for it
    if config.eval.after_fit is not False and config.data.eval_splits:
        scores = evaluate_splits(config, folder, config.data.eval_splits, str(folder.model))
        record_scores(config, folder, scores)
    if global_rank() == 0 and folder.model.is_dir():
        write_card(folder.model, config, folder)  # now with its figures


def train(config: Config, folder: RunFolder) -> FitResult:
    """Tokenises, packs and fits."""
    tokenizer = tokenizer_source(config.model)
    datamodule = PackedDataModule(config, tokenizer, folder, global_rank(), world_size())
    evaluator = SubsetEvaluator(config, folder) if config.eval.every_n_steps else None
    return fit(config, datamodule, folder, evaluator=evaluator)
