"""Which examples of a split are answered when not all are: the same few for everyone who asks."""

from collections.abc import Sequence
from hashlib import blake2b

from medtune.config.suggest import did_you_mean, nearest
from medtune.data.examples import Example
from medtune.evaluation.systems import is_promptcblue


def choose_examples(
    examples: Sequence[Example], tasks: Sequence[str] | None, limit: int | None, seed: int
) -> list[Example]:
    """The examples of some tasks, at most ``limit`` of each, in their order.

    Which they are depends on the seed and on what each example says: neither on the others nor on their
    order. Examples that are none of PromptCBLUE's count as one task.

    Args:
        examples: Of one split.
        tasks: By name; None: all.
        limit: None: all.
        seed: Of the run.

    Raises:
        ValueError: ``tasks`` names one that no example is of.
    """
    has_tasks = is_promptcblue(examples)
    names = [str(example.record["task_dataset"]) if has_tasks else "" for example in examples]
    for task in tasks or ():
        if task not in names:
            known = sorted(set(names) - {""})
            raise ValueError(
                f"eval.tasks: no example of the split is of {task}; there are "
                f"{', '.join(known) or 'no tasks in it'}{did_you_mean(nearest(task, known))}"
            )
    members: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        if tasks is None or name in tasks:
            members.setdefault(name, []).append(place)
    # Of equal examples the earlier comes first: sorting is stable.
    chosen = [
        sorted(places, key=lambda place: draw(examples[place], seed))[:limit] for places in members.values()
    ]
    return [examples[place] for place in sorted(place for places in chosen for place in places)]


def draw(example: Example, seed: int) -> bytes:
    """What an example is ranked by: as good as random, and always the same."""
    asked = [turn.text for turn in example.turns if turn.role != "response"]
    key = repr((seed, example.record.get("sample_id"), asked))
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
