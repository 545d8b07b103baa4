"""What a fit calls to have its model answer and be scored: generation and evaluation behind one function."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from medtune.config.evaluations import evaluated_split
from medtune.config.schema import Config
from medtune.data.tokens.templates import Template
from medtune.evaluation.systems import score_answers
from medtune.evaluation.verdicts import judge_answers
from medtune.generation.engine import TransformersEngine
from medtune.generation.responder import Responder, write_predictions
from medtune.generation.settings import sampling_settings
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.ranks import gather, global_rank
from medtune.runtime.record import RunFolder
from medtune.tasks.evaluate import chosen_examples
from medtune.training.evaluation import Evaluated

LIMIT_PER_TASK = 20  # without eval.limit_per_task


class Stopped(Exception):
    """Leaves the decoding when the run is to end."""


class WatchedEngine(TransformersEngine):
    """Stops decoding when it is asked to, and keeps an error until all ranks have come as far.

    Attributes:
        is_asked_to_stop: Asked before every forward.
        stopped: Whether it did.
        problem: Why it failed; None: it did not.
        tokens: Generated so far, without those that end an answer.
        seconds: What that took.
    """

    is_asked_to_stop: Callable[[], bool] = staticmethod(lambda: False)
    stopped = False
    problem: str | None = None
    tokens = 0
    seconds = 0.0

    def generate(self, prompts: Sequence[Sequence[int]], *settings: Any, **more: Any) -> list[list[int]]:
        """As the engine does; answers of no tokens where it was stopped or failed."""
        hook = self.model.register_forward_pre_hook(self._look_up)
        began = time.perf_counter()
        try:
            answers = super().generate(prompts, *settings, **more)
        except Stopped:
            self.stopped = True
        except (RuntimeError, ValueError, MemoryError) as error:  # out of memory, no room for an answer
            self.problem = f"{type(error).__name__}: {error}"
        else:
            self.tokens += sum(map(len, answers))
            self.seconds += time.perf_counter() - began
            return answers
        finally:
            hook.remove()
        return [[] for _ in prompts]

    def _look_up(self, module: Any, inputs: Any) -> None:
        if self.is_asked_to_stop():
            raise Stopped


class SubsetEvaluator:
    """Answers a fixed choice of a split's examples greedily and scores them; see training/evaluation.py.

    Args:
        config: The settled configuration.
        folder: The answers go to ``predictions/step-N/SPLIT.jsonl`` in it.

    Raises:
        ValueError: The split has no such tasks, or no responses to score against.
    """

    def __init__(self, config: Config, folder: RunFolder) -> None:
        self.folder = folder
        self.protocol = config.evaluate.protocol
        self.split = str(evaluated_split(config))
        limit = config.eval.limit_per_task or LIMIT_PER_TASK
        self.examples = chosen_examples(config, self.split, limit)
        self.settings = replace(sampling_settings(config), temperature=0.0)
        self.tokenizer = load_tokenizer(config.model)
        self.template = Template.from_tokenizer(config.template, self.tokenizer)
        # Scored once without answers: what is to be scored is found out now, not hours later.
        nothing = score_answers(self.examples, [""] * len(self.examples), self.protocol)
        self.tasks: Sequence[str] = list(nothing.tasks)

    def __call__(self, model: Any, step: int, is_asked_to_stop: Callable[[], bool]) -> Evaluated | None:
        """See :class:`medtune.training.evaluation.Evaluator`."""
        engine = WatchedEngine.from_tokenizer(model, self.tokenizer, self.template.stop_ids)
        assert isinstance(engine, WatchedEngine)
        engine.is_asked_to_stop = is_asked_to_stop
        responder = Responder(engine, self.tokenizer, self.template, self.settings)
        texts = responder.answer(self.examples, f"{self.split} at step {step}")
        ranks = gather((engine.stopped, engine.problem, engine.tokens, engine.seconds))
        if problems := [problem for _, problem, _, _ in ranks if problem]:
            raise RuntimeError(problems[0])
        if any(stopped for stopped, *_ in ranks):
            return None
        if global_rank() == 0:
            file = self.folder.predictions / f"step-{step}" / f"{self.split}.jsonl"
            write_predictions(file, self.examples, texts)
        scores = score_answers(self.examples, texts, self.protocol)
        verdicts = judge_answers(self.examples, texts, self.protocol)
        return Evaluated(
            score=scores.score,
            tasks={name: task.score for name, task in scores.tasks.items()},
            parse_failures=sum(not verdict.is_readable for verdict in verdicts),
            table=[verdict[:-1] for verdict in verdicts],
            tokens=sum(tokens for *_, tokens, _ in ranks),
            seconds=max(seconds for *_, seconds in ranks),
        )
