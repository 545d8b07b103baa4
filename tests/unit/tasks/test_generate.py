"""How an answered share ends."""

import json

from medtune.generation.parts import Answered, PartWriter, Share, header_of, merge_parts, part_path
from medtune.generation.summary import Spent
from medtune.runtime.record import RunFolder
from medtune.tasks.generate import finish


def test_a_share_tells_of_its_answers_when_another_process_has_merged_them(tmp_path):
    output = tmp_path / "answers.jsonl"
    answers = {row: Answered({"target": str(row)}, tokens=row + 1, is_cut=row == 2) for row in range(4)}
    for share in (Share(1, 2), Share(2, 2)):
        with PartWriter(part_path(output, share, 0), header_of({"seed": 1}, 4, share)) as part:
            for row in share.rows(4):
                part.add(row, answers[row])
    merge_parts(output, 2)  # as the other process does, between the last answer of this one and its end

    own = {row: answers[row] for row in Share(1, 2).rows(4)}
    finish(output, Share(1, 2), own, Spent(2.0, 2, 4), "answers", RunFolder(tmp_path / "run"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result == {
        "status": "finished",
        "shard": "1/2",
        "rows": 2,
        "tokens": 4,
        "answered_now": 2,
        "seconds": 2.0,
        "tokens_per_second": 2.0,
        "cut_prompts": [],
        "cut_answers": [3],
    }
