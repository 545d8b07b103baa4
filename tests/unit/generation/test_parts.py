import json

import pytest

from medtune.generation.parts import (
    Answered,
    PartWriter,
    Share,
    answers_of,
    header_of,
    merge_parts,
    part_path,
    part_paths,
    read_part,
)
from medtune.runtime.errors import ConfigError

FINGERPRINT = {"seed": 1, "generate.top_p": 0.9, "stop tokens": [2, 3]}


def answered(row, target="答"):
    return Answered(
        {"input": f"{row}", "target": target, "list": ["a", 1.5, None]}, tokens=row, is_cut=row == 2
    )


def write(output, share, rows, total=10, rank=0, fingerprint=FINGERPRINT):
    with PartWriter(part_path(output, share, rank), header_of(fingerprint, total, share)) as part:
        for row in rows:
            part.add(row, answered(row))


@pytest.mark.parametrize("of", [1, 2, 3, 8, 11])
@pytest.mark.parametrize("total", [0, 1, 7, 8, 20])
def test_the_shares_are_all_rows_once(of, total):
    rows = [row for number in range(1, of + 1) for row in Share(number, of).rows(total)]
    assert sorted(rows) == list(range(total))


def test_a_share_is_read_as_it_is_written():
    assert Share.parse("3/8") == Share(3, 8)
    assert str(Share(3, 8)) == "3/8"
    assert Share.parse(None) == Share(1, 1)
    for wrong in ("0/8", "9/8", "3", "3/", "a/b", "-1/8"):
        with pytest.raises(ValueError, match=f"{wrong} is no share"):
            Share.parse(wrong)


def test_parts_merge_in_the_order_of_the_rows_and_go(tmp_path):
    output = tmp_path / "answers[1].jsonl"  # a name that is a pattern too
    write(output, Share(2, 2), [9, 1, 5], rank=0)
    write(output, Share(2, 2), [3, 7], rank=1)
    write(output, Share(1, 2), [8, 0, 2, 6, 4])
    answers = merge_parts(output, 2)
    lines = output.read_text(encoding="utf-8").splitlines()
    assert lines == [json.dumps(answered(row).output, ensure_ascii=False) for row in range(10)]
    assert answers == {row: answered(row) for row in range(10)}
    assert list(tmp_path.iterdir()) == [output]


def test_a_hole_is_refused_and_named(tmp_path):
    output = tmp_path / "answers.jsonl"
    write(output, Share(1, 3), [0, 9, 6])
    write(output, Share(3, 3), [2, 5, 8])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="would have holes") as error:
        merge_parts(output, 3)
    assert str(error.value) == (
        f"{output} would have holes: share 1/3 lacks 1 of 4 rows (row 4; run generate.shard=1/3 again); "
        "there is no part of share 2/3 (3 rows; run generate.shard=2/3)"
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(ValueError, match="there are no parts of 8 shares"):
        merge_parts(output, 8)


@pytest.mark.parametrize("torn", ['{"row": 4, "output": {"in', '{"row": 4}', "\x00\x00", '{"row"\n'])
def test_a_half_written_last_line_is_dropped_and_written_over(tmp_path, torn):
    output, share = tmp_path / "answers.jsonl", Share()
    write(output, share, [0, 1])
    path = part_path(output, share, 0)
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    assert sorted(read_part(path).answers) == [0, 1]
    write(output, share, [2])
    assert path.read_bytes().startswith(whole + b'{"row": 2,')
    assert sorted(read_part(path).answers) == [0, 1, 2]


def test_a_part_that_was_killed_before_its_header_begins_anew(tmp_path):
    output, share = tmp_path / "answers.jsonl", Share()
    part_path(output, share, 0).write_bytes(b'{"layout": 1, "sha')
    assert answers_of(output, share, header_of(FINGERPRINT, 10, share)) == {}
    write(output, share, range(10))
    assert len(merge_parts(output, 1)) == 10


def test_a_broken_line_in_the_middle_is_refused(tmp_path):
    output, share = tmp_path / "answers.jsonl", Share()
    write(output, share, [0, 1])
    path = part_path(output, share, 0)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{\n", *lines[1:]]))
    with pytest.raises(ValueError, match=r"part-1-of-1\.0:2: no line of a part"):
        read_part(path)


def test_answers_of_another_run_are_not_mixed(tmp_path):
    output, share = tmp_path / "answers.jsonl", Share(1, 2)
    write(output, share, [0, 2])
    other = header_of({**FINGERPRINT, "generate.top_p": 1.0, "seed": 2}, 10, share)
    with pytest.raises(
        ConfigError, match=r"seed=2 \(1 there\); generate\.top_p=1\.0 \(0\.9 there\)\. Repeat"
    ):
        answers_of(output, share, other)
    write(output, Share(2, 2), [1], fingerprint={**FINGERPRINT, "seed": 2})
    with pytest.raises(ConfigError, match=r"part-2-of-2\.0 holds answers of another run"):
        merge_parts(output, 2)


def test_two_processes_do_not_write_one_part(tmp_path):
    output, share = tmp_path / "answers.jsonl", Share()
    header = header_of(FINGERPRINT, 10, share)
    with PartWriter(part_path(output, share, 0), header) as part:
        part.add(0, answered(0))
        with pytest.raises(ConfigError, match="is in use: another process answers these rows"):
            PartWriter(part_path(output, share, 0), header)
    assert sorted(answers_of(output, share, header)) == [0]


def test_ranks_go_on_with_what_other_ranks_had(tmp_path):
    output, share = tmp_path / "answers.jsonl", Share()
    for rank in range(3):
        write(output, share, [rank], rank=rank)
    assert len(part_paths(output, share)) == 3
    assert sorted(answers_of(output, share, header_of(FINGERPRINT, 10, share))) == [0, 1, 2]


def test_half_of_a_surrogate_pair_is_kept_as_it_came(tmp_path):
    """JSON may hold one, as an escape; UTF-8 cannot."""
    output, share = tmp_path / "answers.jsonl", Share()
    row = {"input": "\ud83d", "target": "答"}
    with PartWriter(part_path(output, share, 0), header_of(FINGERPRINT, 1, share)) as part:
        part.add(0, Answered(row, tokens=1))
    merge_parts(output, 1)
    assert json.loads(output.read_text(encoding="utf-8")) == row
