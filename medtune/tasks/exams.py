"""Multiple-choice exams taken by a model: shots in front of the questions, and answers by likelihood."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

from medtune.config.schema import Config
from medtune.config.sources import has_split, source_of_split
from medtune.data.examples import Example, Turn
from medtune.data.reading.formats.exam import EXAM, SINGLE
from medtune.data.reading.splits import split_examples
from medtune.data.tokens.templates import Template
from medtune.evaluation.exam import is_exam
from medtune.generation.likelihood import log_likelihoods
from medtune.generation.responder import Responder, open_turns
from medtune.runtime.errors import ConfigError
from medtune.runtime.progress import progress
from medtune.runtime.ranks import gather, global_rank, interleave, world_size

SHOT_SPLITS = ("dev", "train")  # where shots come from when evaluate.shots_split does not say


def answer(config: Config, responder: Responder, examples: Sequence[Example], what: str) -> list[str]:
    """The answers to examples: generated, or the likeliest letters where ``evaluate.exam`` asks for them."""
    if config.evaluate.exam == "likelihood":
        return likeliest_letters(responder, examples, what)
    return responder.answer(examples, what)


def refuse_other_data(config: Config, examples: Sequence[Example], split: str) -> None:
    """Raises ConfigError where exam settings meet data that is none."""
    evaluate = config.evaluate
    if is_exam([example.record for example in examples]):
        return
    for key, value, holds in (
        ("exam", evaluate.exam, evaluate.exam != "generate"),
        ("shots", evaluate.shots, evaluate.shots > 0),
    ):
        if holds:
            raise ConfigError(
                f"evaluate.{key}={value} is for multiple-choice exams (data.format=exam), and split "
                f"{split} of data={config.data.name} is none; leave it out"
            )


def likeliest_letters(responder: Responder, examples: Sequence[Example], what: str) -> list[str]:
    """For each question the letters that the model finds likeliest as its answer.

    With one right option: the likeliest of the letters, as lm-evaluation-harness has it. With several, or
    where the exam does not tell: the likeliest of all sets of letters in alphabetical order, each with the
    end of the response, since ``A`` also begins ``AB``. Ranks share the work and all get the whole.
    """
    share = examples[global_rank() :: world_size()]
    prompts = responder.template.prompts_ids([open_turns(example) for example in share])
    candidates = [candidates_of(example.record[EXAM]) for example in share]
    ids = answer_ids(responder.template, sorted(set(chain.from_iterable(candidates))))
    continuations = [
        letters_alone([ids[text] for text in texts])
        if is_single(example.record[EXAM])
        else [ids[text] for text in texts]
        for example, texts in zip(share, candidates, strict=True)
    ]
    with progress(f"answering {what}", unit="questions", total=len(share)) as advance:
        values = log_likelihoods(
            responder.engine,  # type: ignore[arg-type]
            prompts,
            continuations,
            responder.settings.batch_tokens,
            lambda _row: advance(1),
        )
    chosen = [
        texts[max(range(len(texts)), key=scores.__getitem__)]
        for texts, scores in zip(candidates, values, strict=True)
    ]
    return interleave(gather(chosen))


def is_single(question: Mapping[str, Any]) -> bool:
    """Whether one option is right, and the exam says so."""
    return bool(question["kind"] == SINGLE)


def candidates_of(question: Mapping[str, Any]) -> list[str]:
    """The answers that a question may have."""
    letters = list(question["options"])
    if is_single(question):
        return letters
    sets = chain.from_iterable(combinations(letters, size) for size in range(1, len(letters) + 1))
    return ["".join(chosen) for chosen in sets]


def answer_ids(template: Template, texts: Sequence[str]) -> dict[str, list[int]]:
    """The ids of responses with their end.

    A response is a stretch of its own for every template, so that its ids are the same after any prompt.
    """
    prompt = Turn("prompt", "?", learned=False)
    [before] = template.prompts_ids([(prompt,)])
    wholes = template.encode([Example((prompt, Turn("response", text, True)), "", 0) for text in texts])
    found = {}
    for text, whole in zip(texts, wholes, strict=True):
        ids = [int(token) for token in whole.input_ids]
        assert ids[: len(before)] == before, "a template's prompt does not depend on the response"
        found[text] = ids[len(before) :]
    return found


def letters_alone(answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """Answers without the end that all of them have."""
    shortest, same = min(map(len, answers)), 0
    while same < shortest - 1 and len({answer[-1 - same] for answer in answers}) == 1:
        same += 1
    return [list(answer[: len(answer) - same]) for answer in answers]


def with_shots(config: Config, examples: Sequence[Example], split: str) -> list[Example]:
    """The questions with ``evaluate.shots`` answered ones before each, as earlier turns.

    They are the first of the split that are of the same kind and subject; then, until there are enough, of
    the same kind and the widest division of subjects, of the same kind, and any. Never the question itself.

    Raises:
        ValueError: The split has not so many others.
    """
    count = config.evaluate.shots
    if not count:
        return list(examples)
    shots = Shots(list(split_examples(config.data, shots_split(config, split), needs_response=True)))
    return [
        replace(example, turns=(*shots.turns_for(example, count), *example.turns)) for example in examples
    ]


def shots_split(config: Config, split: str) -> str:
    """The split that the shots of a split come from, of the same source.

    Raises:
        ConfigError: There is none.
    """
    source, _ = source_of_split(config.data, split)
    named = config.evaluate.shots_split
    wanted = (named,) if named else SHOT_SPLITS
    found = next((name for name in wanted if has_split(source, name)), None)
    if found is None:
        raise ConfigError(
            f"evaluate.shots={config.evaluate.shots} needs a split {' or '.join(wanted)} of "
            f"data={source.name}, which has {', '.join(source.splits) or 'none'}; set evaluate.shots_split"
        )
    return f"{source.name}/{found}" if config.data.mix else found


class Shots:
    """Questions with their answers, to be shown before others."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.groups: dict[tuple[str, ...], list[int]] = {}
        for number, example in enumerate(examples):
            for key in keys_of(example):
                self.groups.setdefault(key, []).append(number)

    def turns_for(self, example: Example, count: int) -> list[Turn]:
        """The turns of ``count`` shots for a question."""
        chosen: dict[int, None] = {}
        for key in keys_of(example):
            for number in self.groups.get(key, ())[: 2 * count + 1]:
                if len(chosen) < count and self.examples[number].prompt != example.prompt:
                    chosen[number] = None
        if len(chosen) < count:
            raise ValueError(
                f"{example.where}: evaluate.shots={count}, but there are only {len(chosen)} other questions "
                "to show; choose fewer, or another evaluate.shots_split"
            )
        return list(unlearned(self.examples[number].turns for number in chosen))


def keys_of(example: Example) -> list[tuple[str, ...]]:
    """What shots for a question should share with it, from the most to nothing."""
    question: Mapping[str, Any] = example.record.get(EXAM, {})
    kind, subjects = str(question.get("kind")), list(map(str, question.get("subjects", {}).values()))
    return list(dict.fromkeys([("", kind, *subjects), ("", kind, *subjects[:1]), ("", kind), ()]))


def unlearned(conversations: Iterable[Sequence[Turn]]) -> Iterable[Turn]:
    """Their turns, none of them learned."""
    return (replace(turn, learned=False) for turns in conversations for turn in turns)
