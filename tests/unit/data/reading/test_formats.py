"""Every format: what becomes of its records, and what is said of those that are not in it."""

import json
import pickle
from pathlib import Path

import pytest

from medtune.config.schema import ColumnsConfig, SourceConfig
from medtune.data.reading.formats import Reader, detect_format
from medtune.runtime.errors import ConfigError

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
WEIGHT_0 = {"role": "assistant", "content": "a", "weight": 0}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def read(format, record, *, needs_response=True, columns=None, **source):
    reader = Reader(
        SourceConfig(columns=ColumnsConfig(**(columns or {})), **source),
        needs_response=needs_response,
        format=format,
    )
    return reader.read("a.jsonl", 7, record)


def spoken(example):
    """Turns as one reads them: S, P, R or T, a star where it is learned, and the text."""
    return [f"{turn.role[0].upper()}{'*' if turn.learned else ''} {turn.text}" for turn in example.turns]


CASES = [
    pytest.param("promptcblue", {"input": "q", "target": "a", "x": 1}, {}, ["P q", "R* a"], id="promptcblue"),
    pytest.param("pair", {"instruct": "i", "query": "q", "answer": "a"}, {}, ["P i\nq", "R* a"], id="pair"),
    pytest.param(
        "pair", {"instruct": "i", "query": "", "answer": "a"}, {}, ["P i", "R* a"], id="pair_empty_query"
    ),
    pytest.param(
        "pair", {"instruct": "", "query": "q", "answer": "a"}, {}, ["P q", "R* a"], id="pair_query_only"
    ),
    pytest.param(
        "pair", {"instruct": "i", "query": None, "answer": "a"}, {}, ["P i", "R* a"], id="pair_null_query"
    ),
    pytest.param("pair", {"instruct": "i", "answer": "a"}, {}, ["P i", "R* a"], id="pair_no_query"),
    pytest.param(
        "pair",
        {"问": "q", "答": "a", "query": "not read"},
        {"instruction": "问", "query": "", "response": "答"},
        ["P q", "R* a"],
        id="pair_of_any_names",
    ),
    pytest.param(
        "alpaca", {"instruction": "i", "input": "q", "output": "a"}, {}, ["P i\nq", "R* a"], id="alpaca"
    ),
    pytest.param(
        "alpaca",
        {"instruction": "i", "input": "", "output": "a", "history": [["1", "2"], ["3", "4"]], "system": "s"},
        {},
        ["S s", "P 1", "R* 2", "P 3", "R* 4", "P i", "R* a"],
        id="alpaca_with_history",
    ),
    pytest.param(
        "alpaca",
        {"instruction": "i", "output": "a", "history": None, "system": ""},
        {},
        ["P i", "R* a"],
        id="alpaca_null_history",
    ),
    pytest.param(
        "alpaca",
        {"instruction": "i", "input": "", "output": "a", "history": '[["1", "2"]]'},
        {},
        ["P 1", "R* 2", "P i", "R* a"],
        id="alpaca_history_in_a_table",
    ),
    pytest.param(
        "messages",
        {"messages": [system("s"), user("1"), assistant("2"), user("3"), assistant("4")]},
        {},
        ["S s", "P 1", "R* 2", "P 3", "R* 4"],
        id="openai",
    ),
    pytest.param(
        "messages",
        {"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}], "system": "s"},
        {},
        ["S s", "P 1", "R* 2"],
        id="sharegpt_with_a_system_column",
    ),
    pytest.param(
        "messages",
        {"conversations": [{"from": "User", "value": "1"}, {"from": "chatbot", "value": "2"}]},
        {},
        ["P 1", "R* 2"],
        id="chatbot",
    ),
    pytest.param(
        "messages",
        {"messages": [system(" "), user("1"), WEIGHT_0, user("3"), {**assistant("4"), "weight": 1}]},
        {},
        ["P 1", "R a", "P 3", "R* 4"],
        id="weights_and_an_empty_system_prompt",
    ),
    pytest.param(
        "messages",
        {"messages": [user([{"type": "text", "text": "1"}, {"type": "text", "text": "2"}]), assistant("3")]},
        {},
        ["P 12", "R* 3"],
        id="parts",
    ),
    pytest.param(
        "messages",
        {"messages": {"role": ["user", "assistant"], "content": ["1", "2"]}},
        {},
        ["P 1", "R* 2"],
        id="turns_by_column",
    ),
    pytest.param(
        "messages",
        {"dialog": [{"who": "user", "says": "1"}, {"who": "assistant", "says": "2"}], "messages": 3},
        {"messages": "dialog", "role": "who", "content": "says"},
        ["P 1", "R* 2"],
        id="messages_of_any_names",
    ),
    pytest.param("text", {"text": "t", "source": "x"}, {}, ["T* t"], id="text"),
    pytest.param("text", {"content": "t"}, {"text": "content"}, ["T* t"], id="text_of_any_name"),
]


@pytest.mark.parametrize(("format", "record", "columns", "turns"), CASES)
def test_a_record_becomes_turns(format, record, columns, turns):
    example = read(format, record, columns=columns)
    assert spoken(example) == turns
    assert (example.where, example.record, example.rejected) == ("a.jsonl:7", record, None)


@pytest.mark.parametrize(
    ("format", "record"),
    [
        pytest.param("text", {"text": "\ud800"}, id="text"),
        pytest.param("preference", {"instruction": "i", "chosen": "a", "rejected": "\udc00"}, id="rejected"),
    ],
)
def test_half_of_a_character_is_refused_in_records_that_no_parser_checked(format, record):
    with pytest.raises(ValueError, match=r"^a\.jsonl:7: a text holds a lone surrogate"):
        read(format, record)


@pytest.mark.parametrize(("format", "record", "columns", "turns"), CASES)
def test_a_line_and_its_record_are_read_alike(format, record, columns, turns):
    assert read(format, json.dumps(record).encode(), columns=columns) == read(format, record, columns=columns)


PREFERENCES = [
    pytest.param(
        {"instruction": "i", "input": "q", "chosen": "a", "rejected": "b"}, ["P i\nq", "R* a"], id="fields"
    ),
    pytest.param({"instruction": "i", "input": "", "output": ["a", "b"]}, ["P i", "R* a"], id="two_outputs"),
    pytest.param(
        {"instruction": "i", "output": '["a", "b"]', "history": [["1", "2"]]},
        ["P 1", "R* 2", "P i", "R* a"],
        id="two_outputs_in_a_table",
    ),
    pytest.param(
        {
            "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "i"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        ["S s", "P i", "R* a"],
        id="llama_factory_ranking",
    ),
    pytest.param(
        {"chosen": [user("i"), assistant("a")], "rejected": [user("i"), assistant("b")], "prompt": "i"},
        ["P i", "R* a"],
        id="trl_conversations",
    ),
    pytest.param(
        {"prompt": [user("i")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        ["P i", "R* a"],
        id="trl_conversational_prompt",
    ),
    pytest.param({"prompt": "i", "chosen": "a", "rejected": "b"}, ["P i", "R* a"], id="trl_texts"),
    pytest.param(
        {"instruction": "i", "chosen": [assistant("a")], "rejected": [assistant("b")]},
        ["P i", "R* a"],
        id="lists_of_one_turn",
    ),
]


@pytest.mark.parametrize(("record", "turns"), PREFERENCES)
def test_of_two_responses_the_chosen_is_learned(record, turns):
    example = read("preference", record)
    assert (spoken(example), example.rejected) == (turns, "b")


@pytest.mark.parametrize(
    ("format", "record", "message"),
    [
        pytest.param(
            "promptcblue",
            {"imput": "q", "target": "a"},
            "no field 'input' .*it has 'imput', 'target'; did you mean 'imput'",
            id="near",
        ),
        pytest.param(
            "promptcblue",
            {"input": 3, "target": "a"},
            "field 'input' must be a string, found int: 3",
            id="number",
        ),
        pytest.param("promptcblue", {"input": "q", "target": " "}, "field 'target' is empty", id="empty"),
        pytest.param(
            "promptcblue",
            {"input": "q", "target": None},
            "field 'target' must be a string, found null",
            id="null",
        ),
        pytest.param(
            "promptcblue",
            {"data": [{"input": "q"}]},
            r"no field 'input'.* its records are in 'data', .*jq -c '\.data\[\]'",
            id="nested_list",
        ),
        pytest.param(
            "pair",
            {"instruct": "", "query": " ", "answer": "a"},
            "there is no prompt: 'instruct' and 'query' are empty",
            id="no_prompt",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": ["a", "b"]},
            "'output' is a list of two.*set data.format=preference",
            id="two_outputs",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": "a", "history": [["1", ""]]},
            "'history', pair 1: its response is empty",
            id="half_pair",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": "a", "history": [["1", "2"], []]},
            r"pair 2 must be a list \[prompt, response\]",
            id="empty_pair",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": "a", "history": [["1", None]]},
            "its response must be a string, found null",
            id="null_in_pair",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": "a", "history": ["1", "2"]},
            "pair 1 must be a list .*found str: 1",
            id="flat_history",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": "a", "history": [[["1", "2"]]]},
            "pair 1 must be a list",
            id="nested_history",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": "a", "history": {"1": "2"}},
            "'history' must be a list, found dict",
            id="history_object",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": "a", "history": "[[1"},
            "'history' is no list in JSON",
            id="history_text",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "i", "output": "a", "history": '[["\\ud800", "b"]]'},
            "'history' is no list in JSON: .*surrogates not allowed",
            id="surrogate_in_a_list_in_a_table",
        ),
        pytest.param("messages", {"messages": []}, "'messages' is an empty list", id="no_turns"),
        pytest.param(
            "messages", {"messages": "x"}, "'messages' must be a list, found str: x", id="turns_text"
        ),
        pytest.param("messages", {"messages": ["x"]}, "turn 1 must be a JSON object", id="turn_text"),
        pytest.param(
            "messages",
            {"messages": [{"speaker": "user", "content": "1"}]},
            "turn 1 has no 'role' or 'from' .*it has 'speaker'",
            id="no_role",
        ),
        pytest.param(
            "messages",
            {"messages": [{"role": "user"}]},
            "turn 1 has no 'content' or 'value'",
            id="no_content",
        ),
        pytest.param(
            "messages",
            {"messages": [user("1"), user("2"), assistant("3")]},
            r"two prompts in a row \(turns 1 and 2\)",
            id="two_prompts",
        ),
        pytest.param(
            "messages",
            {"messages": [system("s"), user("1"), assistant("2"), assistant("3")]},
            r"two responses in a row \(turns 3 and 4\)",
            id="two_responses",
        ),
        pytest.param(
            "messages",
            {"messages": [assistant("1"), user("2")]},
            "begins with a response",
            id="response_first",
        ),
        pytest.param(
            "messages",
            {"messages": [user("1"), system("s"), assistant("2")]},
            "system prompt later than its first turn",
            id="late_system",
        ),
        pytest.param("messages", {"messages": [system("s")]}, "holds a system prompt only", id="system_only"),
        pytest.param(
            "messages",
            {"messages": [user("1")]},
            "ends with a prompt; the last turn must be a response",
            id="no_response",
        ),
        pytest.param(
            "messages",
            {"messages": [user("1"), assistant("")]},
            "turn 2: the response is empty",
            id="empty_response",
        ),
        pytest.param(
            "messages",
            {"messages": [user(" "), assistant("2")]},
            "turn 1: the prompt is empty",
            id="empty_prompt",
        ),
        pytest.param(
            "messages",
            {"messages": [user("1"), assistant(None)]},
            "turn 2: its content must be a string, found null",
            id="null_content",
        ),
        pytest.param(
            "messages",
            {"messages": [user("1"), {"role": "tool", "content": "x"}]},
            "spoken by 'tool': tool calls are not supported",
            id="tool",
        ),
        pytest.param(
            "messages",
            {"messages": [user("1"), {**assistant(None), "tool_calls": [{}]}]},
            "turn 2: tool calls are not supported",
            id="tool_calls",
        ),
        pytest.param(
            "messages",
            {"messages": [{"role": "doctor", "content": "1"}]},
            r"'doctor', who is none of system.*data.roles=\{doctor: user\}",
            id="role",
        ),
        pytest.param(
            "messages",
            {"messages": [user([{"type": "image_url"}]), assistant("2")]},
            "part 1: only parts of type 'text'",
            id="image",
        ),
        pytest.param(
            "messages",
            {"messages": [user("1"), {**assistant("2"), "weight": 0.5}]},
            r"weight must be 0 \(not learned\) or 1, found float",
            id="weight",
        ),
        pytest.param(
            "messages",
            {"messages": [{**user("1"), "weight": 1}, assistant("2")]},
            "only a response can have a weight",
            id="weighted_prompt",
        ),
        pytest.param(
            "messages",
            {"messages": [system("s"), user("1"), assistant("2")], "system": "t"},
            "two system prompts",
            id="two_systems",
        ),
        pytest.param(
            "messages",
            {"messages": {"role": ["user"], "content": []}},
            "lists of several lengths",
            id="ragged_columns",
        ),
        pytest.param(
            "preference",
            {"instruction": "i", "chosen": "a", "rejected": "a"},
            "the chosen and the rejected response are the same",
            id="equal",
        ),
        pytest.param(
            "preference",
            {"instruction": "i", "chosen": "a", "rejected": ""},
            "the rejected response is empty",
            id="no_rejected",
        ),
        pytest.param(
            "preference", {"instruction": "i", "chosen": "a"}, "no field 'rejected'", id="rejected_lacking"
        ),
        pytest.param(
            "preference",
            {"instruction": "i", "output": "a"},
            "'output' is one response; preference needs",
            id="one_output",
        ),
        pytest.param(
            "preference",
            {"instruction": "i", "output": ["a"]},
            "list of two responses, found 1",
            id="one_in_list",
        ),
        pytest.param(
            "preference", {"chosen": "a", "rejected": "b"}, "no field 'instruction'", id="no_context"
        ),
        pytest.param(
            "preference",
            {"chosen": [user("1"), assistant("a")], "rejected": [user("2"), assistant("b")]},
            "differ before their last turn",
            id="prompts_differ",
        ),
        pytest.param(
            "preference",
            {
                "instruction": "x",
                "chosen": [user("1"), assistant("a")],
                "rejected": [user("1"), assistant("b")],
            },
            "a prompt of its own beside field 'instruction'",
            id="two_prompts_given",
        ),
        pytest.param(
            "preference",
            {"chosen": [user("1")], "rejected": [user("2")]},
            "must end with a response",
            id="ends_with_prompt",
        ),
        pytest.param(
            "preference",
            {"conversations": [user("1"), assistant("2")], "chosen": "a", "rejected": "b"},
            "must end with a prompt before the two responses",
            id="answered",
        ),
        pytest.param(
            "text",
            {"content": "t"},
            r"no field 'text' \(see data.columns.text\); it has 'content'",
            id="no_text",
        ),
    ],
)
def test_a_record_that_is_not_in_the_format_says_what_is_wrong(format, record, message):
    with pytest.raises(ValueError, match=rf"^a\.jsonl:7: .*{message}"):
        read(format, record)


@pytest.mark.parametrize(
    ("format", "columns", "message"),
    [
        pytest.param(
            "pair",
            {"query": "qury"},
            r"no field 'qury' \(see data.columns.query\).*did you mean 'query'",
            id="optional",
        ),
        pytest.param(
            "pair",
            {"instruction": "instruction"},
            "see data.columns.instruction.*did you mean 'instruct'",
            id="needed",
        ),
        pytest.param(
            "pair",
            {"response": ""},
            'data.columns.response is "", but the format cannot do without',
            id="switched_off",
        ),
        pytest.param(
            "alpaca",
            {"instruction": "instruct", "response": "answer", "history": "past"},
            "no field 'past'",
            id="history",
        ),
    ],
)
def test_a_column_map_that_points_nowhere_names_the_columns_there_are(format, columns, message):
    with pytest.raises(ValueError, match=message):
        read(format, {"instruct": "i", "query": "q", "answer": "a"}, columns=columns)


def test_a_column_named_as_it_is_anyway_may_still_be_lacking():
    record = {"instruction": "i", "output": "a"}
    assert spoken(read("alpaca", record, columns={"history": "history", "query": "input"})) == ["P i", "R* a"]


def test_further_speakers_are_named_by_the_settings():
    turns = [{"from": "患者", "value": "1"}, {"from": "医生", "value": "2"}]
    example = read("messages", {"conversations": turns}, roles={"患者": "user", "医生": "assistant"})
    assert spoken(example) == ["P 1", "R* 2"]
    with pytest.raises(ConfigError, match=r"data\.roles\.医生=doctor is none of system, user, assistant"):
        read("messages", {"conversations": turns}, roles={"医生": "doctor"})


def test_of_a_conversation_all_or_the_last_response_is_learned():
    record = {"messages": [system("s"), user("1"), assistant("2"), user("3"), assistant("4")]}
    assert spoken(read("messages", record, learn="last")) == ["S s", "P 1", "R 2", "P 3", "R* 4"]
    record = {"messages": [user("1"), assistant("2"), user("3"), WEIGHT_0]}
    assert spoken(read("messages", record, learn="last")) == ["P 1", "R 2", "P 3", "R a"]


@pytest.mark.parametrize(
    ("format", "record"),
    [
        pytest.param("promptcblue", {"input": "q", "target": ""}, id="promptcblue"),
        pytest.param("promptcblue", {"input": "q"}, id="promptcblue_lacking"),
        pytest.param("pair", {"instruct": "q", "answer": None}, id="pair"),
        pytest.param("alpaca", {"instruction": "q", "output": ""}, id="alpaca"),
        pytest.param("messages", {"messages": [user("q")]}, id="messages"),
        pytest.param("messages", {"messages": [user("q"), assistant("")]}, id="messages_empty"),
        pytest.param("preference", {"instruction": "q", "chosen": "", "rejected": None}, id="preference"),
        pytest.param(
            "preference", {"conversations": [user("q")], "chosen": None, "rejected": None}, id="ranking"
        ),
    ],
)
def test_withheld_responses_are_empty_where_none_is_needed(format, record):
    assert spoken(read(format, record, needs_response=False)) == ["P q", "R* "]
    with pytest.raises(ValueError, match=r"a\.jsonl:7: "):
        read(format, record, needs_response=True)


def test_a_reader_goes_to_other_processes():
    source = SourceConfig(roles={"医生": "assistant"}, learn="last")
    reader = pickle.loads(pickle.dumps(Reader(source, needs_response=True, format="messages")))
    turns = [user("1"), {"role": "医生", "content": "2"}]
    assert spoken(reader.read("a", 1, {"messages": turns})) == ["P 1", "R* 2"]


@pytest.mark.parametrize(
    ("record", "columns", "format"),
    [
        pytest.param({"input": "q", "target": "a", "task_type": "ner"}, {}, "promptcblue", id="promptcblue"),
        pytest.param({"instruct": "i", "query": "", "answer": "a"}, {}, "pair", id="pair"),
        pytest.param(
            {"问": "q", "答": "a"}, {"instruction": "问", "response": "答"}, "pair", id="pair_named"
        ),
        pytest.param(
            {"input": "q", "target": "a"},
            {"instruction": "input", "response": "target"},
            "pair",
            id="named_over_own",
        ),
        pytest.param({"instruction": "i", "input": "", "output": "a"}, {}, "alpaca", id="alpaca"),
        pytest.param(
            {"q": "i", "a": "a", "h": []},
            {"instruction": "q", "response": "a", "history": "h"},
            "alpaca",
            id="alpaca_named",
        ),
        pytest.param(
            {"instruction": "i", "output": "a", "text": "### i a"}, {}, "alpaca", id="alpaca_rendered"
        ),
        pytest.param({"messages": [user("1")]}, {}, "messages", id="openai"),
        pytest.param(
            {"id": 1, "conversations": [{"from": "human", "value": "1"}]}, {}, "messages", id="sharegpt"
        ),
        pytest.param({"messages": '[{"role": "user"}]'}, {}, "messages", id="messages_in_a_table"),
        pytest.param({"prompt": "q", "chosen": "a", "rejected": "b"}, {}, "preference", id="preference"),
        pytest.param({"instruction": "i", "output": ["a", "b"]}, {}, "preference", id="two_outputs"),
        pytest.param(
            {"conversations": [user("1")], "chosen": assistant("a"), "rejected": assistant("b")},
            {},
            "preference",
            id="ranking",
        ),
        pytest.param({"text": "t", "meta": {"url": "x"}}, {}, "text", id="text"),
        pytest.param({"content": "t"}, {"text": "content"}, "text", id="text_named"),
    ],
)
def test_the_format_is_told_where_it_is_unambiguous(record, columns, format):
    assert detect_format(record, ColumnsConfig(**columns), "a.json:1") == format


@pytest.mark.parametrize(
    ("record", "message"),
    [
        pytest.param(
            {"input": "q", "target": "a", "instruction": "i", "output": "b"},
            "could be promptcblue or alpaca; say which with data.format=promptcblue or data.format=alpaca",
            id="two",
        ),
        pytest.param(
            {"messages": [user("1")], "chosen": [user("1"), assistant("a")], "rejected": []},
            "it could be preference or messages",
            id="conversations",
        ),
        pytest.param(
            {"text": "q", "answer": "a"},
            "no format has the fields 'text', 'answer'; name them, for example data.format=pair",
            id="text_and_answer",
        ),
        pytest.param({"text": "q", "label": 1}, "no format has the fields", id="classification"),
        pytest.param(
            {"data": [{"input": "q"}]},
            r"a single object whose field 'data' is a list.*jq -c",
            id="list_inside",
        ),
        pytest.param({}, "no format has the fields none", id="nothing"),
    ],
)
def test_a_format_that_could_be_several_has_to_be_said(record, message):
    with pytest.raises(ValueError, match=rf"^a\.json:1: .*{message}"):
        detect_format(record, ColumnsConfig(), "a.json:1")
