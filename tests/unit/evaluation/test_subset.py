import pytest

from medtune.data.examples import Example, Turn
from medtune.data.reading.formats.exam import EXAM
from medtune.evaluation.subset import choose_examples
from medtune.evaluation.systems import score_answers
from medtune.evaluation.verdicts import judge_answers


def example(number, task, prompt=None, target="是的", **record):
    asked = Turn("prompt", prompt or f"第{number}位患者有何不适？", learned=False)
    record = {"sample_id": f"dev-{number}", "task_dataset": task, "target": target, **record}
    record = {key: value for key, value in record.items() if value is not None}
    return Example((asked, Turn("response", target, learned=True)), "dev.json", number, record)


EXAMPLES = [example(number, "MedDG" if number % 3 else "CMeEE-V2") for number in range(30)]


def test_a_choice_is_of_each_task_and_in_order():
    chosen = choose_examples(EXAMPLES, None, 4, seed=1)
    tasks = [one.record["task_dataset"] for one in chosen]
    assert (tasks.count("MedDG"), tasks.count("CMeEE-V2")) == (4, 4)
    assert [one.line for one in chosen] == sorted(one.line for one in chosen)
    assert chosen != choose_examples(EXAMPLES, None, 4, seed=2)


def test_who_else_is_there_does_not_matter():
    """So the choice is the same for any order, and grows by what is added."""
    names = {one.record["sample_id"] for one in choose_examples(EXAMPLES, None, 4, seed=1)}
    reversed_ = choose_examples(EXAMPLES[::-1], None, 4, seed=1)
    assert {one.record["sample_id"] for one in reversed_} == names
    more = {one.record["sample_id"] for one in choose_examples(EXAMPLES, None, 6, seed=1)}
    assert names < more
    fewer = [one for one in EXAMPLES if one.record["sample_id"] in names or one.line > 10]
    assert {one.record["sample_id"] for one in choose_examples(fewer, None, 4, seed=1)} == names


def test_tasks_and_no_limit():
    chosen = choose_examples(EXAMPLES, ["CMeEE-V2"], None, seed=1)
    assert chosen == [one for one in EXAMPLES if one.line % 3 == 0]
    assert choose_examples(EXAMPLES, None, None, seed=1) == EXAMPLES


def test_a_task_that_the_split_does_not_hold_is_refused():
    message = (
        r"eval\.tasks: no example of the split is of MedDGG; there are CMeEE-V2, MedDG; did you mean MedDG"
    )
    with pytest.raises(ValueError, match=message):
        choose_examples(EXAMPLES, ["MedDGG"], 4, seed=1)


def test_other_data_are_one_task():
    plain = [example(number, None) for number in range(9)]
    assert len(choose_examples(plain, None, 4, seed=1)) == 4
    with pytest.raises(ValueError, match=r"is of MedDG; there are no tasks in it"):
        choose_examples(plain, ["MedDG"], 4, seed=1)


def test_verdicts_on_a_benchmarks_answers():
    lead = "上述句子中的实体包含：\n疾病实体："
    records = [
        example(0, "CHIP-STS", answer_choices=["是的", "不是"]),
        example(1, "CHIP-STS", answer_choices=["是的", "不是"]),
        example(2, "CMeEE-V2", target=lead + "胃炎，肺炎", answer_choices=["疾病"]),
    ]
    same, other, entities = judge_answers(records, ["是的", "不是", lead + "肺炎，胃炎"], "ccks2023")
    assert (same.task, same.gold, same.prediction, same.right) == ("CHIP-STS", "是的", "是的", True)
    assert (other.right, other.is_readable) == (False, True)
    assert "肺炎" in entities.parsed
    assert entities.right, "entities stand in no order"
    assert not judge_answers(records[2:], [""], "ccks2023")[0].right


def test_verdicts_on_other_answers():
    plain = [example(number, None, target="胃炎\n") for number in range(2)]
    right, wrong = judge_answers(plain, ["胃炎", ""], "ccks2023")
    assert (right.task, right.right, right.is_readable) == ("", True, True)
    assert (wrong.right, wrong.is_readable) == (False, False)


def test_verdicts_on_an_exam_go_by_its_letters():
    """As its scores do: what cannot be read there is not readable here."""
    question = {"kind": "single", "options": {"A": "头痛", "B": "发热"}, "answer": "B", "subjects": {}}
    asked = [example(number, None, target="B", **{EXAM: question}) for number in range(3)]
    answers = ["答案：B。", "A", "不知道"]
    verdicts = judge_answers(asked, answers, "ccks2023")
    assert [verdict.parsed for verdict in verdicts] == ["B", "A", ""]
    assert [verdict.right for verdict in verdicts] == [True, False, False]
    scores = score_answers(asked, answers, "ccks2023")
    assert sum(not verdict.is_readable for verdict in verdicts) == len(
        scores.tasks["accuracy"].parse_failures
    )
