"""The card written beside the data: what it is, how it was made, and how to check it."""

from __future__ import annotations

from medtune.data.sample.splits import EVALUATION_SPLITS, Written
from medtune.data.sample.tasks import TASKS, Lengths

_TEXT = """\
---
language: zh
license: apache-2.0
pretty_name: medtune sample
tags: [synthetic, medical, PromptCBLUE-shaped]
---

# The medtune sample

Synthetic Chinese medical records in the form of [PromptCBLUE](https://github.com/michael-wzhu/PromptCBLUE),
made by `medtune.data.sample` so that medtune can be tried, tested and scored without a download. Words,
sentences and prompts were written for this project; no record, sentence or prompt template was taken from a
public data set.

**Not medical advice.** There are no patients behind it. Words are combined at random, so what the sentences
claim about diseases, drugs and examinations is mostly false. A model trained on it knows nothing about
medicine, and a score on it is not a PromptCBLUE score.

## How it is made

```sh
{command}
```

Python's standard library only; the same seed gives the same bytes. Licence: Apache-2.0.

## Files

| file | records | bytes | SHA-256 |
|---|---:|---:|---|
{files}

{digest_note}

Six tasks, by their official names, in rotation, so that the official parsers and metrics apply: {tasks}.
Each record has `input`, `target`, `answer_choices` (null where there is none), `task_type`, `task_dataset`
and `sample_id`; the targets follow the official grammar, task by task.

| split | what it measures |
|---|---|
| train | input lengths: `{lengths}` |
| dev, test ({dev} and {test} records a task) | new cores: known words and prompts in new combinations |
| test_new_words ({new} a task) | the medical words are those 15 % of the lexicon found in no other file |
| test_long ({long} a task) | inputs as long as the benchmark's (median 135, p95 1050, p99 1850 characters) |
| corpus_train, corpus_validation | plain paragraphs, one a line, for pretraining |

No two splits share a *core*: the query, the unordered pair of queries, the raw term, the sentence or
the dialogue, without prompt, choices and greeting. A core's hash decides its split, whatever the seed, so
records generated with another seed can be added to train without meeting the tests. Prompts and sentence
frames are shared by all splits: the sample measures whether training works, not how well a model
generalises to new wording.
"""


def render_card(written: list[Written], num_records: int, seed: int, lengths: Lengths, compress: bool) -> str:
    """The text of ``README.md``, Markdown with the metadata a dataset hub reads."""
    command = (
        f"python -m medtune.data.sample --records {num_records} --seed {seed} --lengths {lengths.value}"
        f"{' --gzip' if compress else ''} --out DIR"
    )
    rows = [f"| {file.name} | {file.num_records} | {file.num_bytes} | `{file.digest}` |" for file in written]
    sizes = {split.name: split.records_per_task for split in EVALUATION_SPLITS}
    return _TEXT.format(
        command=command,
        files="\n".join(rows),
        digest_note=(
            "Bytes and SHA-256 of `train.json.gz` are those of its uncompressed content (`zcat`)."
            if compress
            else "Check them with `sha256sum`."
        ),
        tasks=", ".join(f"{task.task_dataset} ({task.task_type})" for task in TASKS),
        lengths=lengths.value,
        dev=sizes["dev"],
        test=sizes["test"],
        new=sizes["test_new_words"],
        long=sizes["test_long"],
    )
