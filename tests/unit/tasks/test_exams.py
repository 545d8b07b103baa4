"""Exams taken by a tiny model: shots, and letters by likelihood against whole forwards."""

import csv
import json
from dataclasses import replace

import pytest
import torch

from medtune.config.schema import Config, DataConfig, ModelConfig, TemplateConfig
from medtune.data.examples import Example, Turn
from medtune.data.reading.splits import split_examples
from medtune.data.tokens.templates import Template
from medtune.generation.engine import TransformersEngine
from medtune.generation.responder import Responder
from medtune.generation.settings import SamplingSettings
from medtune.models.load import load_model
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.errors import ConfigError
from medtune.runtime.hardware import PROJECT
from medtune.runtime.record import RunFolder
from medtune.tasks import evaluate
from medtune.tasks.during import SubsetEvaluator
from medtune.tasks.exams import (
    answer_ids,
    candidates_of,
    letters_alone,
    likeliest_letters,
    refuse_other_data,
    with_shots,
)

TEMPLATE = TemplateConfig(
    start=[{"token": "bos", "optional": True}],
    prompt=["问：{prompt}\n答："],
    response=["{response}", {"token": "eos"}],
    separator=["\n"],
)
MODEL = ModelConfig(
    init="random",
    model_type="llama",
    tokenizer=str(PROJECT / "data" / "sample" / "tokenizer"),
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
)


@pytest.fixture(scope="module")
def responder():
    torch.manual_seed(0)
    model = load_model(Config(model=MODEL), for_training=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8.0 if parameter.dim() > 1 else 1.0)
    tokenizer = load_tokenizer(MODEL)
    engine = TransformersEngine.from_tokenizer(model, tokenizer)
    return Responder(engine, tokenizer, Template.from_tokenizer(TEMPLATE, tokenizer), SamplingSettings())


def cmb(number, answer, kind="单项选择题", exam_class="护士"):
    return {
        "exam_type": "护理考试",
        "exam_class": exam_class,
        "question": f"第{number}题，正确的是",
        "answer": answer,
        "question_type": kind,
        "option": {"A": "发热", "B": "咳嗽", "C": "头痛", "D": "乏力"},
    }


@pytest.fixture
def data(tmp_path):
    rows = {
        "train": [cmb(n, "AB", "多项选择题", "护师") for n in range(2)]
        + [cmb(n, "ABCD"[n % 4], exam_class="护师" if n % 2 else "护士") for n in range(2, 8)],
        "validation": [cmb(2, "C"), cmb(9, "B"), cmb(10, "ACD", "多项选择题")],
    }
    for split, records in rows.items():
        (tmp_path / f"{split}.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return DataConfig(
        name="own", dir=str(tmp_path), format="exam", splits={split: f"{split}.json" for split in rows}
    )


def whole_log_likelihood(responder, example, answer, ended):
    """One forward over the example with ``answer`` as its response; with its end or without."""
    whole = Example((*example.turns[:-1], Turn("response", answer, True)), "", 0)
    [ids] = [list(map(int, encoded.input_ids)) for encoded in responder.template.encode([whole])]
    start = len(responder.template.prompts_ids([example.turns[:-1]])[0])
    stop = len(ids) if ended else len(ids) - 1  # the end is one token here
    with torch.no_grad():
        logits = responder.engine.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    predicted = logits.log_softmax(-1)
    return sum(float(predicted[at - 1, ids[at]]) for at in range(start, stop))


@pytest.mark.parametrize("shots", [0, 2])
def test_the_likeliest_letters_are_those_of_whole_forwards(responder, data, shots):
    config = Config(data=data)
    config.evaluate.shots = shots
    examples = with_shots(config, list(split_examples(data, "validation", needs_response=True)), "validation")
    due = []
    for example in examples:
        question = example.record["exam"]
        ended = question["kind"] != "single"
        values = {
            text: whole_log_likelihood(responder, example, text, ended) for text in candidates_of(question)
        }
        due.append(max(values, key=values.__getitem__))
    assert likeliest_letters(responder, examples, "validation") == due
    assert len(candidates_of(examples[2].record["exam"])) == 15


def test_answers_have_the_ids_that_training_gives_them(responder, data):
    [example, *_] = split_examples(data, "validation", needs_response=True)
    ids = answer_ids(responder.template, ["A", "ABD"])
    for text in ids:
        whole = Example((*example.turns[:-1], Turn("response", text, True)), "", 0)
        [encoded] = responder.template.encode([whole])
        assert encoded.input_ids[-len(ids[text]) :] == ids[text]
        assert ids[text][-1] == responder.tokenizer.eos_token_id
    assert answer_ids(responder.template, ["A"])["A"] == ids["A"]


def test_a_letter_is_scored_without_the_end_that_all_share():
    assert letters_alone([[9, 1, 3], [9, 2, 3]]) == [[9, 1], [9, 2]]
    assert letters_alone([[1], [2]]) == [[1], [2]]
    assert letters_alone([[1, 3], [1, 2, 3]]) == [[1], [1, 2]]


@pytest.mark.parametrize("exam", ["generate", "likelihood"])
def test_the_task_scores_an_exam_by_its_rules(data, tmp_path, exam):
    data = replace(data, eval_splits=["validation"])
    config = Config(task="evaluate", model=MODEL, template=TEMPLATE, data=data)
    config.trainer.accelerator = "cpu"
    config.generate.max_new_tokens = 4
    config.evaluate.exam, config.evaluate.shots = exam, 1
    evaluate.run(config, RunFolder(tmp_path / "run"))
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    accuracy = scores["tasks"]["accuracy"]
    assert (scores["protocol"], scores["headline"], accuracy["rows"]) == ("exam", "accuracy", 3)
    assert set(scores["tasks"]) == {"accuracy", "single", "multiple"}
    assert set(scores["splits"]["validation"]) == {"model", "trivial"}
    assert set(accuracy["by"]["question_type"]) == {"single", "multiple"}
    rows = (tmp_path / "run" / "predictions" / "validation.jsonl").read_text().splitlines()
    assert [json.loads(row)["exam"]["answer"] for row in rows] == ["C", "B", "ACD"]
    if exam == "likelihood":
        assert accuracy["parse_failures"] == []
    assert (tmp_path / "run" / "plots" / "scores_validation.png").is_file()


def test_an_exam_is_taken_with_the_same_shots_while_the_model_learns(data, tmp_path, responder):
    """The answers of an evaluation of the weights as they are, afterwards."""
    data = replace(data, eval_splits=["validation"])
    config = Config(model=MODEL, template=TEMPLATE, data=data)
    config.evaluate.shots, config.generate.max_new_tokens, config.eval.every_n_steps = 2, 4, 1
    evaluator = SubsetEvaluator(config, RunFolder(tmp_path / "run"))
    evaluator(responder.engine.model, 1, lambda: False)
    rows = (tmp_path / "run" / "predictions" / "step-1" / "validation.jsonl").read_text().splitlines()
    asked = with_shots(config, evaluator.examples, "validation")
    afterwards = replace(responder, settings=SamplingSettings(max_new_tokens=4)).answer(asked, "validation")
    assert [json.loads(row)["target"] for row in rows] == afterwards
    assert afterwards != replace(responder, settings=SamplingSettings(max_new_tokens=4)).answer(
        evaluator.examples, "validation"
    )


def test_an_exam_without_a_training_split_has_no_rules_to_compare_with(data, tmp_path):
    splits = {"dev": "train.json", "validation": "validation.json"}
    data = replace(data, splits=splits, eval_splits=["validation"])
    config = Config(task="evaluate", model=MODEL, template=TEMPLATE, data=data)
    config.trainer.accelerator = "cpu"
    config.evaluate.exam, config.evaluate.shots = "likelihood", 2
    evaluate.run(config, RunFolder(tmp_path / "run"))
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores["splits"]["validation"]) == {"model"}


def test_a_predictions_file_of_an_exam_is_scored_without_a_model(data, tmp_path):
    predictions = tmp_path / "predictions.jsonl"
    predictions.write_text(
        "\n".join(json.dumps({"target": text}, ensure_ascii=False) for text in ("答案：C", "A", "A、C、D"))
    )
    config = Config(task="evaluate", data=data)
    config.evaluate.predictions = str(predictions)
    config.evaluate.references = str(tmp_path / "validation.json")
    evaluate.run(config, RunFolder(tmp_path / "run"))
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["score"] == pytest.approx(200 / 3)
    assert scores["tasks"]["accuracy"]["by"]["exam_class"] == {
        "护士": {"accuracy": scores["score"], "rows": 3}
    }


def test_shots_are_of_the_same_kind_and_subject_and_never_the_question(data):
    """For question 2 (single, 护士): 4 and 6 of its subject; then of its kind."""
    config = Config(data=data)
    config.evaluate.shots = 4
    examples = list(split_examples(data, "validation", needs_response=True))
    shown = with_shots(config, examples, "validation")
    turns = shown[0].turns
    assert [turn.role for turn in turns] == ["prompt", "response"] * 5
    numbers = [turn.text.split("第")[1].split("题")[0] for turn in turns if turn.role == "prompt"]
    assert numbers == ["4", "6", "3", "5", "2"]
    assert [turn.text for turn in turns[1:-1:2]] == ["A", "C", "D", "B"]
    assert not any(turn.learned for turn in turns[:-2])
    assert turns[-2:] == examples[0].turns
    answers = [turn.text for turn in shown[2].turns if turn.role == "response"]
    assert answers[:2] == ["AB", "AB"]


def test_too_few_shots_and_no_split_of_them_are_refused(data):
    config = Config(data=data)
    config.evaluate.shots = 9
    examples = list(split_examples(data, "validation", needs_response=True))
    with pytest.raises(ValueError, match=r"validation.json:1: evaluate.shots=9, but there are only 7 other"):
        with_shots(config, examples, "validation")
    config.evaluate.shots_split = "dev"
    with pytest.raises(ConfigError, match="evaluate.shots=9 needs a split dev of data=own, which has train"):
        with_shots(config, examples, "validation")


@pytest.mark.parametrize(("key", "value"), [("exam", "likelihood"), ("shots", 3)])
def test_exam_settings_are_refused_for_other_data(key, value):
    config = Config()
    setattr(config.evaluate, key, value)
    example = Example((Turn("prompt", "问", False), Turn("response", "答", True)), "f", 1, {"input": "问"})
    with pytest.raises(ConfigError, match=f"evaluate.{key}={value} is for multiple-choice exams"):
        refuse_other_data(config, [example], "dev")


def test_the_files_of_c_eval_are_its_subjects(tmp_path):
    """By the patterns of conf/data/ceval_medicine.yaml, which leave other subjects out."""
    import yaml

    option = yaml.safe_load((PROJECT / "conf" / "data" / "ceval_medicine.yaml").read_text(encoding="utf-8"))
    names = ["basic_medicine", "clinical_medicine", "physician"]
    others = ["veterinary_medicine", "chinese_language_and_literature", "plant_protection", "civil_servant"]
    (tmp_path / "val").mkdir()
    for name in [*names, *others]:
        with (tmp_path / "val" / f"{name}_val.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "question", "A", "B", "C", "D", "answer"])
            writer.writerow(["0", "问____", "一", "二", "三", "四", "B"])
    source = DataConfig(name="ceval", dir=str(tmp_path), format="exam", splits=option["splits"])
    found = list(split_examples(source, "validation", needs_response=True))
    assert [example.record["exam"]["subjects"] for example in found] == [{"subject": name} for name in names]
