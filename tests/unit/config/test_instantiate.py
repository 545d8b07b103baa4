from collections import OrderedDict
from datetime import timedelta
from fractions import Fraction

import pytest

from medtune.config.instantiate import instantiate


@pytest.mark.parametrize(
    ("node", "built"),
    [
        pytest.param({"_target_": "datetime.timedelta", "days": 2}, timedelta(days=2), id="arguments"),
        pytest.param({"_target_": "fractions.Fraction", "numerator": 3}, Fraction(3), id="own_class"),
        pytest.param(
            {"_target_": "datetime.datetime.fromisoformat.__name__.upper"}, "FROMISOFORMAT", id="deep"
        ),
        pytest.param(
            {
                "_target_": "builtins.dict",
                "a": {"_target_": "builtins.list"},
                "b": [{"_target_": "builtins.dict"}],
            },
            {"a": [], "b": [{}]},
            id="inner_nodes_first",
        ),
        pytest.param({"_target_": "builtins.dict", "a": {"b": 1}}, {"a": {"b": 1}}, id="plain_mapping_stays"),
    ],
)
def test_a_node_is_built(node, built):
    assert instantiate(node) == built


def describe(name: str, folder: str = "none") -> str:
    return f"{name} in {folder}"


def test_what_a_run_offers_reaches_builders_that_take_it(monkeypatch):
    monkeypatch.setattr("string.describe", describe, raising=False)
    node = {"_target_": "string.describe", "name": "x"}
    assert instantiate(node, folder="here", config="not taken") == "x in here"
    assert instantiate(node) == "x in none"


def test_the_node_itself_is_left_as_it_was():
    node = {"_target_": "builtins.dict", "a": {"_target_": "builtins.list"}}
    instantiate(node)
    assert node == {"_target_": "builtins.dict", "a": {"_target_": "builtins.list"}}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        pytest.param({"a": 1}, "has no _target_", id="no_target"),
        pytest.param(
            {"_target_": "no_such_package.x"}, "there is no package no_such_package", id="no_package"
        ),
        pytest.param({"_target_": "collections.Nope"}, "collections has no Nope", id="no_name"),
        pytest.param({"_target_": "lone"}, "there is no package lone", id="no_dots"),
    ],
)
def test_a_target_that_is_not_there_is_refused(node, message):
    with pytest.raises(ValueError, match=message):
        instantiate(node)


def test_an_import_that_a_module_lacks_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        instantiate({"_target_": "needs_more.x"})


def test_a_class_of_the_standard_library_by_a_dotted_path():
    assert type(instantiate({"_target_": "collections.OrderedDict"})) is OrderedDict
