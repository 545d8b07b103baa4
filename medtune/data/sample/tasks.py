"""One writer per task: each makes one record, in the target grammar of the official parsers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache
from random import Random
from typing import NamedTuple, TypeVar

from medtune.data.sample import wording
from medtune.data.sample.lexicon import Lexicon
from medtune.data.sample.wording import HAS, HAS_NOT, KIND_FIELDS, UNKNOWN

T = TypeVar("T")

ANSWER_MARK = "\n答："
ANSWER_MARK_SHARE = 0.8
SEPARATOR = "，"

# Characters a dialogue is filled up to under Lengths.PROMPTCBLUE: (share of dialogues, up to this length).
# Half of the records are single sentences, so these fix the tail of the whole: p95 1050, p99 1850.
DIALOGUE_QUANTILES = ((0.0, 110), (0.25, 190), (0.5, 330), (0.845, 1040), (0.968, 1830), (1.0, 2600))


class Lengths(Enum):
    """How long the inputs are: learnable in minutes, or distributed as the benchmark's."""

    SHORT = "short"
    PROMPTCBLUE = "promptcblue"


class Draft(NamedTuple):
    """A record without its names. ``core`` is what makes it new: the input without prompt and choices."""

    core: str
    input: str
    target: str
    answer_choices: list[str] | None


class Setting(NamedTuple):
    """What a writer draws from."""

    rng: Random
    lexicon: Lexicon
    lengths: Lengths


class Task(NamedTuple):
    """A task under its official names, with the function that writes one record of it."""

    task_dataset: str
    task_type: str
    write: Callable[[Setting], Draft]


def draw(rng: Random, items: Sequence[T]) -> T:
    """One of ``items``; a third of the time of ``Random.choice``, which draws bits until they fit."""
    return items[int(rng.random() * len(items))]


def draw_distinct(rng: Random, items: Sequence[T], count: int) -> list[T]:
    """``count`` different items in random order, without the set-up cost of ``Random.sample``."""
    drawn: list[T] = []
    while len(drawn) < count:
        item = draw(rng, items)
        if item not in drawn:
            drawn.append(item)
    return drawn


def fill_frame(rng: Random, lexicon: Lexicon, frame: tuple[str, str]) -> tuple[str, list[tuple[str, str]]]:
    """A frame's sentence, and the (kind, word) pairs in it from left to right."""
    kinds, text = frame
    words: list[str] = []
    for kind in kinds:
        candidates = _words(lexicon, kind)
        word = draw(rng, candidates)
        while word in words:
            word = draw(rng, candidates)
        words.append(word)
    return text % tuple(words), list(zip(kinds, words, strict=True))


def write_entities(setting: Setting) -> Draft:
    """CMeEE-V2: the entities of the asked types in a sentence."""
    rng, lexicon, lengths = setting
    num_clauses = draw(rng, (1, 2, 2) if lengths is Lengths.SHORT else (7, 8, 9, 10, 12))
    clauses: list[str] = []
    found: dict[str, list[str]] = {}
    for frame in draw_distinct(rng, wording.ENTITY_CLAUSES, num_clauses):
        clause, pairs = fill_frame(rng, lexicon, frame)
        clauses.append(clause)
        for kind, word in pairs:
            words = found.setdefault(kind, [])
            if word not in words:
                words.append(word)
    text = "；".join(clauses) + "。"
    asked = draw_distinct(rng, tuple(wording.ENTITY_TYPES), draw(rng, (1, 2, 2, 3)))
    # Types drawn blindly are mostly absent; asking for one that is there keeps empty answers the exception.
    present = draw(rng, tuple(found))
    if present not in asked and rng.random() < 0.9:
        asked[int(rng.random() * len(asked))] = present
    choices = [wording.ENTITY_TYPES[kind] for kind in asked]
    if any(kind in found for kind in asked):
        lines = [f"{wording.ENTITY_TYPES[kind]}实体：{SEPARATOR.join(found.get(kind, ()))}" for kind in asked]
        target = "\n".join([wording.ENTITY_LEAD_IN, *lines])
    else:
        target = wording.ENTITY_NONE
    return Draft(text, _prompt(rng, wording.ENTITY_PROMPTS, choices, text=text), target, choices)


def write_intent(setting: Setting) -> Draft:
    """KUAKE-QIC: which of ten intents a query has. The opener is left out of the core: it changes nothing."""
    rng, lexicon, lengths = setting
    intents = tuple(wording.INTENTS)
    intent = draw(rng, intents)
    query, _ = fill_frame(rng, lexicon, draw(rng, wording.INTENTS[intent]))
    text = draw(rng, wording.OPENERS) + query
    if lengths is Lengths.PROMPTCBLUE and rng.random() < 0.4:
        # Some people tell their story before they ask.
        story = [_fill_number(rng, *filler) for filler in draw_distinct(rng, wording.FILLERS, 5)]
        text = "".join(story) + text
    choices = list(intents)
    rng.shuffle(choices)
    return Draft(query, _prompt(rng, wording.INTENT_PROMPTS, choices, text=text), intent, choices)


def write_relation(setting: Setting) -> Draft:
    """KUAKE-QQR: how a second query relates to the first.

    Narrower and wider follow from who is asked about (a qualifier on one side only), the same from two
    wordings of one topic, unrelated from two topics.
    """
    rng, lexicon, _ = setting
    label = draw(rng, wording.RELATIONS)
    entity = other = draw(rng, lexicon.diseases)
    topic, other_topic = draw_distinct(rng, wording.TOPICS, 2)
    if label != wording.UNRELATED:
        other_topic = topic
    elif rng.random() < 0.5:
        other = draw(rng, lexicon.diseases)
    frame = draw(rng, topic)
    # A narrower query often repeats the wording; the same query by definition does not.
    keeps_frame = label in (wording.NARROWER, wording.WIDER) and rng.random() < 0.5
    other_frame = frame if keeps_frame else draw(rng, [f for f in other_topic if f != frame])
    qualifier = draw(rng, wording.QUALIFIERS)
    is_shared = label in (wording.SAME, wording.UNRELATED) and rng.random() < 0.25
    first = frame % (qualifier + entity if label == wording.WIDER or is_shared else entity)
    second = other_frame % (qualifier + other if label == wording.NARROWER or is_shared else other)
    choices = list(wording.RELATIONS)
    # Sorted, so that a pair and its mirror image never end up on two sides of a split.
    core = "\t".join(sorted((first, second)))
    return Draft(
        core, _prompt(rng, wording.RELATION_PROMPTS, choices, first=first, second=second), label, choices
    )


def write_standard_name(setting: Setting) -> Draft:
    """CHIP-CDN: the standard names among the candidates that a note's wording stands for."""
    rng, lexicon, lengths = setting
    short = lengths is Lengths.SHORT
    names = draw_distinct(rng, lexicon.diseases, 2 if rng.random() < 0.15 else 1)
    raw_names = [lexicon.aliases[name] if rng.random() < 0.6 else name for name in names]
    text = draw(rng, wording.RAW_PREFIXES) + draw(rng, wording.RAW_JOINTS).join(raw_names)
    text += draw(rng, wording.RAW_SUFFIXES)
    has_none = rng.random() < 0.08
    choices = [] if has_none else list(names)
    size = draw(rng, (4, 5, 6, 7) if short else (8, 10, 12, 14))
    # One look-alike, so that a shared character does not give the answer away.
    alike = draw(rng, _look_alikes(lexicon)[names[0]])
    if alike not in names:
        choices.append(alike)
    while len(choices) < size:
        name = draw(rng, lexicon.diseases)
        if name not in choices and name not in names:
            choices.append(name)
    rng.shuffle(choices)
    target = wording.NAME_NONE if has_none else SEPARATOR.join(names)
    return Draft(text, _prompt(rng, wording.NAME_PROMPTS, choices, text=text), target, choices)


def write_statuses(setting: Setting) -> Draft:
    """IMCS-V2-SR: the symptoms of a dialogue, each with whether the patient has it.

    The three answers are equally likely, so that answering the same for every symptom earns a third.
    """
    rng, lexicon, lengths = setting
    num_symptoms = draw(rng, (1, 2, 2, 3) if lengths is Lengths.SHORT else (2, 2, 3, 4, 6))
    symptoms = draw_distinct(rng, lexicon.symptoms, num_symptoms)
    statuses = [draw(rng, (HAS, HAS_NOT, UNKNOWN)) for _ in symptoms]
    opening = "患者：" + draw(rng, wording.STATUS_OPENINGS[statuses[0]]) % symptoms[0] + "。"
    exchanges = [
        f"医生：{draw(rng, wording.STATUS_QUESTIONS) % symptom}\n"
        f"患者：{draw(rng, wording.STATUS_ANSWERS[status])}。"
        for symptom, status in zip(symptoms[1:], statuses[1:], strict=True)
    ]
    text = "\n".join([opening, *_fill_dialogue(setting, exchanges, len(opening))])
    choices = list(wording.STATUSES)
    lines = [f"{symptom}：{status}" for symptom, status in zip(symptoms, statuses, strict=True)]
    target = "\n".join([wording.STATUS_LEAD_IN, *lines])
    return Draft(text, _prompt(rng, wording.STATUS_PROMPTS, choices, text=text), target, choices)


def write_reply(setting: Setting) -> Draft:
    """MedDG: the doctor's next turn, which follows from what the patient has told so far.

    A bare complaint is asked for its duration, one with a duration for what else is wrong, two symptoms are
    sent to hospital; any other last turn has an answer of its own that takes up the word it was about.
    """
    rng, lexicon, lengths = setting
    first, second = draw_distinct(rng, lexicon.symptoms, 2)
    opening = "患者：" + draw(rng, wording.REPLY_COMPLAINTS) % first
    duration = f"医生：{wording.REPLY_DURATION_QUESTION % first}\n患者：{draw(rng, wording.DURATIONS)}了。"
    companion_question = wording.REPLY_COMPANION_QUESTION % first
    situations = _word_situations(lexicon)
    situation = int(rng.random() * (len(situations) + 3))
    if situation == len(situations):
        exchanges, reply = [], wording.REPLY_DURATION_QUESTION % first
    elif situation == len(situations) + 1:
        exchanges, reply = [duration], companion_question
    elif situation == len(situations) + 2:
        exchanges = [f"医生：{companion_question}\n患者：{draw(rng, wording.REPLY_COMPANION) % second}"]
        reply = wording.REPLY_BOTH_KNOWN % (first, second)
    else:
        said, reply, words = situations[situation]
        word = draw(rng, words)
        said, reply = said.format(word), reply.format(word)
        # With or without the doctor's first question: it is the last turn that is answered.
        exchanges = [duration + said] if lengths is not Lengths.SHORT or rng.random() < 0.4 else []
        if not exchanges:
            opening += said
    text = "\n".join([opening, *_fill_dialogue(setting, exchanges, len(opening), keep_last=True)])
    return Draft(text, _prompt(rng, wording.REPLY_PROMPTS, [], text=text), reply, None)


TASKS = (
    Task("CMeEE-V2", "ner", write_entities),
    Task("KUAKE-QIC", "cls", write_intent),
    Task("KUAKE-QQR", "matching", write_relation),
    Task("CHIP-CDN", "normalization", write_standard_name),
    Task("IMCS-V2-SR", "attr_cls", write_statuses),
    Task("MedDG", "response_generation", write_reply),
)


def _words(lexicon: Lexicon, kind: str) -> tuple[str, ...]:
    words: tuple[str, ...] = getattr(lexicon, KIND_FIELDS[kind])
    return words


def _prompt(rng: Random, templates: Sequence[str], choices: list[str], **parts: str) -> str:
    """One of the templates, filled in, mostly with the mark that asks for the answer."""
    text = draw(rng, templates).format(choices=SEPARATOR.join(choices), **parts)
    return text + ANSWER_MARK if rng.random() < ANSWER_MARK_SHARE else text


def _fill_dialogue(
    setting: Setting, exchanges: list[str], length: int, *, keep_last: bool = False
) -> list[str]:
    """The exchanges, in order, among as many others as the wanted length has room for.

    Args:
        setting: Short dialogues get nothing added.
        exchanges: Doctor's question and patient's answer, joined.
        length: Characters of the dialogue before them.
        keep_last: The last exchange (or, when there is none, the opening) is what is replied to: nothing may
            follow it.
    """
    rng, _, lengths = setting
    if lengths is Lengths.SHORT or (keep_last and not exchanges):
        return exchanges
    wanted = _draw_dialogue_length(rng)
    length += sum(map(len, exchanges))
    fillers: list[str] = []
    while True:
        filler = draw(rng, wording.FILLERS)
        exchange = f"医生：{filler[0]}\n患者：{_fill_number(rng, *filler)}"
        length += len(exchange) + 1
        if length > wanted:
            break
        fillers.append(exchange)
    for exchange in exchanges[:-1] if keep_last else exchanges:
        fillers.insert(int(rng.random() * (len(fillers) + 1)), exchange)
    return fillers + exchanges[-1:] if keep_last else fillers


def _fill_number(rng: Random, _question: str, answer: str, low: int, high: int) -> str:
    return answer % (low + int(rng.random() * (high - low + 1)))


def _draw_dialogue_length(rng: Random) -> float:
    share = rng.random()
    for (low_share, low), (high_share, high) in zip(DIALOGUE_QUANTILES, DIALOGUE_QUANTILES[1:], strict=False):
        if share < high_share:
            return low + (high - low) * (share - low_share) / (high_share - low_share)
    raise AssertionError("the last quantile is 1")


@cache
def _word_situations(lexicon: Lexicon) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    """The patient's last words, the reply, and the words either may be about."""
    return tuple((said, reply, _words(lexicon, kind)) for kind, said, reply in wording.REPLY_SITUATIONS)


@cache
def _look_alikes(lexicon: Lexicon) -> dict[str, tuple[str, ...]]:
    """For every disease the others that begin or end as it does; all others where there is none."""
    names = lexicon.diseases
    alike = {
        name: tuple(n for n in names if n != name and (n[0] == name[0] or n[-2:] == name[-2:]))
        for name in names
    }
    return {name: found or tuple(n for n in names if n != name) for name, found in alike.items()}
