"""One hand-worked answer per grammar, quirks first, and what must stay bounded."""

import json

import pytest

from medtune.evaluation.promptcblue.errors import FatalRowError
from medtune.evaluation.promptcblue.grammar import follows_grammar
from medtune.evaluation.promptcblue.literals import MAX_LITERAL_CHARS, read_literal, read_triples
from medtune.evaluation.promptcblue.parsing import parse_answer
from medtune.evaluation.promptcblue.protocols import CCKS2023, CHIP2023, find_protocol

EVENT = {"主体词": "", "发生状态": "", "描述词": [], "解剖部位": []}


def parse(task, text, choices=None, protocol=CHIP2023):
    return parse_answer(text, protocol.find_task(task), choices, protocol)


@pytest.mark.parametrize(
    ("task", "choices", "text", "expected"),
    [
        pytest.param(
            "CMeEE-V2",
            ["疾病", "药物"],
            "上述句子中的实体包含：\n疾病实体：肺炎， 结核 ，\n身体实体：肺",
            [{"entity": "肺炎", "type": "疾病"}, {"entity": "结核", "type": "疾病"}],
            id="entities_of_asked_types_only",
        ),
        pytest.param(
            "IMCS-V2-NER",
            ["症状"],
            "症状实体:咳",
            [{"entity": "症状实体:咳", "type": "症状"}],
            id="narrow_colon_keeps_the_prefix",
        ),
        pytest.param(
            "CMeIE-V2",
            ["病因"],
            "具有病因关系的头尾实体对如下：头实体为A，尾实体为B。头实体为C",
            [{"predicate": "病因", "subject": "A", "object": "B"}],
            id="half_a_triple_is_dropped",
        ),
        pytest.param(
            "CMeIE-V2",
            ["病因"],
            "头实体为A，尾实体为B",
            [{"predicate": "体为A，尾实体为B", "subject": "A", "object": "B"}],
            id="without_a_header_the_line_is_the_relation",
        ),
        pytest.param(
            "CHIP-CDN",
            ["b", "a", "c"],
            "x\nb，a，b，z",
            [{"entity": "a", "type": "normalization"}, {"entity": "b", "type": "normalization"}],
            id="offered_terms_once_each",
        ),
        pytest.param("CHIP-CDN", ["a"], "a\n", [], id="trailing_newline_loses_the_terms"),
        pytest.param(
            "CHIP-CDEE",
            None,
            "lead\n主体词：痛；描述词：钝，久；解剖部位：腹\n",
            [{"主体词": "痛", "发生状态": "", "描述词": ["钝", "久"], "解剖部位": ["腹"]}, EVENT],
            id="a_blank_line_is_an_event",
        ),
        pytest.param(
            "CHIP-CDEE",
            None,
            "lead\n主体词：发生状态：x",
            [{**EVENT, "主体词": "发生状态：x", "发生状态": "x"}],
            id="one_attribute_fills_two_fields",
        ),
        pytest.param(
            "CHIP-MDCFNPC",
            ["有", "无"],
            "lead\n咳：有\n痛：也许\na：b：c",
            [{"entity": "咳", "attr": "有"}, {"entity": "痛", "attr": "不标注"}],
            id="unknown_label_is_read_as_the_default",
        ),
        pytest.param("CHIP-STS", None, " 不同\n", "不是", id="either_wording"),
        pytest.param("KUAKE-QIC", ["病因分析"], "病因分析。", "病因分析。", id="labels_are_not_checked"),
        pytest.param(
            "IMCS-V2-MRG",
            None,
            "lead\n主诉：旧\n主诉：甲主诉：乙\n续行",
            {"主诉": "乙"},
            id="later_lines_win_and_wrapped_text_is_lost",
        ),
        pytest.param(
            "CMedCausal",
            None,
            "条件关系三元组如下：\n头实体：C；尾三元组：头实体：A；尾实体：B；关系：因果关系",
            [
                {
                    "predicate": "条件关系",
                    "subject": "C；尾三元组：",
                    "object": {"predicate": "因果关系", "subject": "A", "object": "B"},
                }
            ],
            id="a_nested_triple_leaves_its_marker_in_the_subject",
        ),
        pytest.param(
            "Text2DT",
            None,
            "1：role=C；logical_rel=or；triples=[['a','b','c'],['d','e'],'xyz']",
            [{"role": "C", "logical_rel": "or", "triples": [["a", "b", "c"], "xyz"]}],
            id="elements_of_length_three",
        ),
        pytest.param(
            "Text2DT",
            None,
            "1：role=C；triples=[]",
            [{"role": "C；triples=[]", "logical_rel": "null", "triples": []}],
            id="without_a_relation_the_rest_is_the_role",
        ),
        pytest.param(
            "Text2DT",
            None,
            "1：role=D；logical_rel=and；triples=__import__('os').getcwd()",
            [{"role": "D", "logical_rel": "and", "triples": []}],
            id="code_is_never_run",
        ),
    ],
)
def test_texts_are_read_with_every_quirk(task, choices, text, expected):
    assert parse(task, text, choices) == expected


@pytest.mark.parametrize(
    ("task", "text", "exception"),
    [
        ("CMedCausal", "因果关系三元组如下\n以上。", "IndexError"),
        (
            "CMedCausal",
            "条件关系三元组\n头实体：C；尾三元组：头实体：A；尾实体：B；关系：无",
            "AssertionError",
        ),
        ("Text2DT", "节点1", "IndexError"),
        ("Text2DT", "1：role=D；triples=[{'a', 'b', 'c'}]", "TypeError"),
        ("Text2DT", "1：role=D；triples=[['a', 'b', '\\ud800']]", "UnicodeEncodeError"),
        ("MedDG", "你好\ud800", "UnicodeEncodeError"),
    ],
)
def test_a_text_that_kills_the_official_parser_is_named(task, text, exception):
    with pytest.raises(FatalRowError, match=f"^{exception}: ") as caught:
        parse(task, text)
    assert caught.value.exception == exception


def test_the_first_protocol_widens_punctuation_and_the_second_does_not():
    text = "上述句子中的实体包含:\n疾病实体:肺炎,结核"
    both = [{"entity": "肺炎", "type": "疾病"}, {"entity": "结核", "type": "疾病"}]
    assert parse("CMeEE-V2", text, ["疾病"], CCKS2023) == both
    assert parse("CMeEE-V2", text, ["疾病"], CHIP2023) == [{"entity": "疾病实体:肺炎,结核", "type": "疾病"}]
    assert parse("MedDG", "," * 101, None, CCKS2023) == "，" * 100 + ","


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "-" * 50_000 + "1",
        "[" * 500 + "]" * 500,
        "1+" * 40_000 + "1",
        "[[" * 99,
        "\0",
        "[1" + "0" * 5000,
    ],
    ids=["open", "signs", "nested", "sums", "short", "null_byte", "huge_number"],
)
def test_a_hostile_literal_is_no_triples(text):
    assert read_triples(text) == []


def test_a_literal_beyond_the_bound_is_refused_by_its_length():
    with pytest.raises(ValueError, match=f"100002 characters; at most {MAX_LITERAL_CHARS}"):
        read_literal("'" + "a" * MAX_LITERAL_CHARS + "'")


@pytest.mark.parametrize("task", [task.name for task in CHIP2023.tasks])
@pytest.mark.parametrize(
    "text", ["好" * 300_000, "\n" * 300_000, "，；" * 150_000, "x：role=C；triples=[]\n" * 15_000]
)
def test_a_hostile_text_stays_bounded(task, text):
    """300,000 characters take some 10 ms; a quadratic reader would hang the suite."""
    try:
        answer = parse(task, text, ["疾病", "药物"])
        follows_grammar(text, answer, CHIP2023.find_task(task), ["疾病", "药物"], CHIP2023)
        size = len(json.dumps(answer, ensure_ascii=False))
    except FatalRowError as error:
        size = len(str(error))
    assert size < 100 * len(text)


@pytest.mark.parametrize(
    ("task", "choices", "text", "expected"),
    [
        ("CMeEE-V2", ["疾病"], "疾病实体：", True),
        ("CMeEE-V2", ["疾病"], "肺炎", False),
        ("KUAKE-QIC", ["病因分析"], "非上述类型", True),
        ("KUAKE-QIC", ["病因分析"], "病因分析。", False),
        ("CHIP-STS", ["相同", "不同"], "不同", True),
        ("CHIP-CDN", ["a"], "没有对应的标准化实体", True),
        ("CHIP-CDN", ["a"], "b", False),
        ("IMCS-V2-SR", ["有"], "lead\n咳：有", True),
        ("IMCS-V2-SR", ["有"], "lead\n咳：也许", False),
        ("MedDG", None, "", False),
        ("IMCS-V2-MRG", None, "lead\n主诉：痛", True),
    ],
)
def test_answers_are_told_from_other_text(task, choices, text, expected):
    answer = parse(task, text, choices)
    assert follows_grammar(text, answer, CHIP2023.find_task(task), choices, CHIP2023) is expected


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(ValueError, match="'ccks2024'; it is one of ccks2023, chip2023"):
        find_protocol("ccks2024")
