"""How the sources of a mix are put together from options, the data's own keys and their own."""

from dataclasses import asdict

import pytest

from medtune.config.compose import compose_settings, option_folders, plain_settings
from medtune.config.load import config_from_dict
from medtune.config.mix import with_mixed_sources
from medtune.config.resolvers import CONF
from medtune.config.schema import DataConfig
from medtune.config.sources import source_of_split, sources_of
from medtune.runtime.errors import ConfigError


def composed(*overrides, folder=None):
    settings = compose_settings(["data=mix", *overrides], folder=folder)
    typed = [override.lstrip("+").partition("=")[0] for override in overrides]
    values, problems = with_mixed_sources(plain_settings(settings)[0], typed, option_folders(settings))
    return config_from_dict(values).data, problems


def test_a_source_takes_its_option_then_the_datas_keys_then_its_own():
    data, problems = composed(
        "data.mix=[promptcblue,msra_ner]",
        "data.on_error=skip",
        "data.overlong=drop",
        "++data.sources.msra_ner.overlong=error",
        "++data.sources.msra_ner.weight=3",
        "++data.sources.promptcblue.splits.train=other.json",
    )
    assert problems == []
    sources = sources_of(data)
    assert list(sources) == ["promptcblue", "msra_ner"]
    cblue, msra = sources.values()
    assert (cblue.format, cblue.overlong, cblue.on_error, cblue.weight) == (
        "promptcblue",
        "drop",
        "skip",
        None,
    )
    assert cblue.splits == {"train": "other.json", "validation": "dev.json", "test": "test.json"}
    assert (msra.format, msra.overlong, msra.on_error, msra.weight) == ("pair", "error", "skip", 3)
    assert msra.columns.instruction == "instruct"


def test_a_source_may_be_described_by_its_keys_alone():
    data, problems = composed(
        "data.mix=[sample,leaflets]", "++data.sources.leaflets.splits={train: leaflets.jsonl}"
    )
    assert problems == []
    assert sources_of(data)["leaflets"].splits == {"train": "leaflets.jsonl"}


def test_a_folder_of_the_command_line_has_options_too(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(
        "# Mine.\nname: mine\nformat: text\nsplits: {train: a.txt}\n"
    )
    data, problems = composed("data.mix=[mine]", folder=tmp_path)
    assert problems == []
    assert sources_of(data)["mine"].format == "text"


def test_evaluation_splits_are_those_of_the_sources():
    data, _ = composed("data.mix=[sample,msra_ner,sample_corpus]")
    assert data.eval_splits == ["sample/test", "sample/new_words", "msra_ner/validation"]
    assert composed("data.mix=[sample]", "data.eval_splits=[sample/long]")[0].eval_splits == ["sample/long"]
    assert composed("data.mix=[sample]", "data.eval_splits=[]")[0].eval_splits == []


def test_what_is_typed_for_the_mix_goes_before_what_an_earlier_run_had():
    """As after ``weights=RUN``, whose record spells every source out."""
    record = asdict(composed("data.mix=[sample,msra_ner]")[0])
    record |= {"max_examples": 5, "filter": {**record["filter"], "max_chars": 50}}
    record["sources"]["sample"] |= {"max_examples": 9, "filter": {"min_chars": 3}}
    record["sources"]["msra_ner"]["max_examples"] = 7
    typed = ["data.max_examples", "data.filter.max_chars", "data.sources.msra_ner.max_examples"]
    data = with_mixed_sources({"data": record}, typed, [CONF])[0]["data"]
    assert data["sources"]["sample"]["max_examples"] == 5
    limits = data["sources"]["sample"]["filter"]
    assert (limits["min_chars"], limits["max_chars"]) == (3, 50)
    assert data["sources"]["msra_ner"]["max_examples"] == 7


def test_another_mix_than_that_of_an_earlier_run_has_its_own_sources():
    record = asdict(composed("data.mix=[sample,msra_ner]")[0]) | {"mix": ["msra_ner"]}
    values, problems = with_mixed_sources({"data": record}, ["data.mix"], [CONF])
    assert problems == []
    assert [*values["data"]["sources"]] == ["msra_ner"]
    assert values["data"]["eval_splits"] == ["msra_ner/validation"]


def test_a_source_is_called_what_the_mix_calls_it():
    data = DataConfig(mix=["a"], sources={"a": {"name": "b"}})
    assert sources_of(data)["a"].name == "a"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        pytest.param(
            ["data.mix=[sampel]"], "data.mix names sampel, which is no option of data", id="misspelt"
        ),
        pytest.param(["data.mix=[sampel]"], "did you mean sample?", id="suggestion"),
        pytest.param(["data.mix=[mix]"], "data.mix names mix, which is a mix itself", id="mix_in_mix"),
        pytest.param(
            ["data.mix=[sample]", "++data.sources.sampel.weight=1"],
            "data.sources.sampel: data.mix=[sample] does not name it; did you mean sample?",
            id="keys_of_another",
        ),
    ],
)
def test_what_is_wrong_with_a_mix_is_said(overrides, problem):
    _, problems = composed(*overrides)
    assert any(problem in found for found in problems)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        pytest.param(
            {"wieght": 2}, "no key data.sources.a.wieght; did you mean data.sources.a.weight", id="key"
        ),
        pytest.param({"format": "txt"}, "data.sources.a.format=txt is none of auto", id="choice"),
        pytest.param({"weight": "much"}, "data.sources.a.weight=much is not a number or null", id="type"),
        pytest.param({"columns": {"txt": "b"}}, "did you mean data.sources.a.columns.text", id="deep"),
    ],
)
def test_keys_of_a_source_are_checked_as_any_other(values, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        sources_of(DataConfig(mix=["a"], sources={"a": values}))


def test_one_data_set_is_its_own_source():
    data = DataConfig(name="mine", dir="d", splits={"train": "f"}, learn="last")
    (source,) = sources_of(data).values()
    assert asdict(source) == {key: value for key, value in asdict(data).items() if key in asdict(source)}
    assert source_of_split(data, "a/b") == (source, "a/b")


def test_a_split_of_a_mix_is_named_with_its_source():
    data = DataConfig(mix=["a", "b"], sources={"a": {"dir": "x"}, "b": {}})
    source, split = source_of_split(data, "a/test")
    assert (source.name, source.dir, split) == ("a", "x", "test")
    for wrong in ("test", "c/test", "a/"):
        with pytest.raises(ValueError, match=f"split '{wrong}': in a mix a split is named SOURCE/SPLIT"):
            source_of_split(data, wrong)
