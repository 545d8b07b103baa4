"""Scoring a split's answers by the rules that fit its data, and the rules without learning beside them."""

from collections.abc import Sequence
from typing import Any

from medtune.data.examples import Example
from medtune.data.reading.formats.exam import EXAM
from medtune.evaluation.baselines import best_of, trivial_predictions
from medtune.evaluation.exam import is_exam, score_exam
from medtune.evaluation.promptcblue import score_predictions
from medtune.evaluation.scores import Scores
from medtune.evaluation.text import score_texts


def is_promptcblue(examples: Sequence[Example]) -> bool:
    """Whether the benchmark's protocol applies: every record names its data set there."""
    return all("task_dataset" in example.record for example in examples)


def score_answers(examples: Sequence[Example], texts: Sequence[str], protocol: str) -> Scores:
    """Scores answers by PromptCBLUE's protocol or an exam's rules where they apply, else as texts."""
    records = [example.record for example in examples]
    if is_promptcblue(examples):
        return score_predictions(records, texts, protocol)
    if is_exam(records):
        return score_exam(records, texts)
    return score_texts([gold(example) for example in examples], texts)


def gold(example: Example) -> str:
    """The response that an answer is compared to."""
    return next(turn.text for turn in reversed(example.turns) if turn.role == "response")


def trivial_scores(train: Sequence[Example], examples: Sequence[Example], protocol: str, seed: int) -> Scores:
    """The best that a rule without learning reaches, task by task; what a trained model has to beat."""
    answers = trivial_predictions(map(answered_record, train), map_choices(examples), seed)
    return best_of({name: score_answers(examples, texts, protocol) for name, texts in answers.items()})


def answered_record(example: Example) -> dict[str, Any]:
    """A record with its response under ``target``, whatever its format calls it."""
    return {**example.record, "target": gold(example)}


def map_choices(examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Records whose choices are where PromptCBLUE has them: a question's letters are its labels."""
    return [
        {**example.record, "task_type": "cls", "answer_choices": list(example.record[EXAM]["options"])}
        if is_exam([example.record])
        else dict(example.record)
        for example in examples
    ]
