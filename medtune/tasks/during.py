"""What a fit calls to have its model answer and be scored: generation and evaluation behind one function."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medtune.config.evaluations import evaluated_split
from medtune.config.schema import Config
from medtune.data.tokens.templates import Template
from medtune.evaluation.systems import score_answers
from medtune.evaluation.verdicts import judge_answers
from medtune.generation.engine import TransformersEngine
from medtune.generation.responder import Answer, Question, Responder, stop_tokens, write_predictions
from medtune.generation.settings import sampling_settings
from medtune.generation.summary import Spent, log_summary, summary
from medtune.models.placing import base_model
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.ranks import gather, global_rank, interleave, world_size
from medtune.runtime.record import RunFolder
from medtune.tasks import exams
from medtune.tasks.evaluate import chosen_examples
from medtune.training.evaluation import Evaluated

LIMIT_PER_TASK = 20  # without eval.limit_per_task


class Stopped(Exception):
    """Leaves the decoding when the run is to end."""


@dataclass(frozen=True)
class Attempt:
    """What one rank's answering came to.

    Attributes:
        answers: To its questions; none where it was stopped or failed.
        seconds: That they took.
        stopped: Whether it was asked to stop, and did.
        problem: Why it failed; None: it did not.
    """

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False
    problem: str | None = None


def attempt(
    model: Any,
    respond: Callable[[Sequence[Question], str], list[Answer]],
    questions: Sequence[Question],
    what: str,
    is_asked_to_stop: Callable[[], bool],
) -> Attempt:
    """Answers this rank's questions; stops when asked to, and keeps an error, so that no other rank waits.

    Args:
        model: Whose every forward is preceded by the question.
        respond: The responder's.
        questions: Of this rank.
        what: Is answered, for the progress bar.
        is_asked_to_stop: Asked before every token.
    """

    def look_up(module: Any, inputs: Any) -> None:
        if is_asked_to_stop():
            raise Stopped

    # A beam search calls the network below an adapter's wrapper, our own decoding the wrapper.
    hooks = [part.register_forward_pre_hook(look_up) for part in {model, base_model(model)}]
    began = time.perf_counter()
    try:
        answers = respond(questions, what)
    except Stopped:
        return Attempt(stopped=True)
    except (RuntimeError, ValueError, MemoryError) as error:  # out of memory, no room for an answer
        return Attempt(problem=f"{type(error).__name__}: {error}")
    finally:
        for hook in hooks:
            hook.remove()
    return Attempt(answers, time.perf_counter() - began)


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
        self.asked = exams.with_shots(config, self.examples, self.split)
        self.settings = replace(sampling_settings(config), temperature=0.0)
        self.tokenizer = load_tokenizer(config.model)
        self.template = Template.from_tokenizer(config.template, self.tokenizer)
        self.generate = config.generate
        self.stop_ids = stop_tokens(config, self.template)
        # Scored once without answers: what is to be scored is found out now, not hours later.
        nothing = score_answers(self.examples, [""] * len(self.examples), self.protocol)
        self.tasks: Sequence[str] = list(nothing.tasks)

    def __call__(self, model: Any, step: int, is_asked_to_stop: Callable[[], bool]) -> Evaluated | None:
        """See :class:`medtune.training.evaluation.Evaluator`."""
        engine = TransformersEngine.from_tokenizer(model, self.tokenizer, self.stop_ids)
        responder = Responder(
            engine,
            self.tokenizer,
            self.template,
            self.settings,
            overlong=self.generate.overlong,
            use_choices=self.generate.choices,
        )
        what = f"{self.split} at step {step}"
        questions = responder.prepare(self.asked)
        mine = questions[global_rank() :: world_size()]
        attempts = gather(attempt(model, responder.respond, mine, what, is_asked_to_stop))
        raise_first(each.problem for each in attempts)
        if any(each.stopped for each in attempts):
            return None
        answers = interleave([each.answers for each in attempts])
        tokens, seconds = sum(answer.tokens for answer in answers), max(each.seconds for each in attempts)
        if global_rank() == 0:
            spent = Spent(seconds, len(answers), tokens)
            log_summary(summary(dict(enumerate(answers)), spent), what)
        texts = [answer.text for answer in answers]
        raise_first(gather(self._write(step, texts)))
        scores = score_answers(self.examples, texts, self.protocol)
        verdicts = judge_answers(self.examples, texts, self.protocol)
        return Evaluated(
            score=scores.score,
            tasks={name: task.score for name, task in scores.tasks.items()},
            parse_failures=sum(not verdict.is_readable for verdict in verdicts),
            table=[verdict[:-1] for verdict in verdicts],
            tokens=tokens,
            seconds=seconds,
        )

    def _write(self, step: int, texts: Sequence[str]) -> str | None:
        """Writes the answers on rank zero; why it could not, since the others must hear of it."""
        if global_rank() != 0:
            return None
        file = self.folder.predictions / f"step-{step}" / f"{self.split}.jsonl"
        try:
            write_predictions(file, self.examples, texts)
        except ValueError as error:  # the disk is full
            return str(error)
        return None


def raise_first(problems: Iterable[str | None]) -> None:
    """Raises RuntimeError on all ranks where one of them had a problem."""
    if (problem := next(filter(None, problems), None)) is not None:
        raise RuntimeError(problem)
