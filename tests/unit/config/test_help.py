import subprocess
import sys

import pytest

from medtune.config.help import overview, read_schema, show_help, topic_help
from medtune.config.keys import schema_keys
from medtune.config.overrides import group_options
from medtune.config.schema import TASKS


def test_the_first_page_names_every_verb_group_and_option():
    text = overview()
    words = set(text.replace(",", " ").split())
    assert set(TASKS) <= words
    for group, names in group_options().items():
        assert {group, *names} - {"task"} <= words


def test_the_first_page_fits_a_screen():
    assert len(overview().splitlines()) < 60
    assert max(map(len, overview().splitlines())) <= 120


@pytest.mark.parametrize("key", schema_keys())
def test_every_key_is_documented(key):
    text = topic_help(key)
    assert text is not None
    first, second, *_ = text.splitlines()
    assert first.startswith(f"{key}   ")
    assert ", default " in first
    assert len(second.strip()) > 5


@pytest.mark.parametrize(
    ("topic", "line"),
    [
        ("trainer", "trainer.accelerator   auto|cpu|cuda, default auto"),
        ("optim", "optim.betas   list[float], default [0.9, 0.95]"),
        ("trainer.max_steps", "trainer.max_steps   int | null, default null"),
        ("run", "task   train|prepare|generate|evaluate|export|chat|serve, default train"),
        ("template", "template.chat   bool, default false"),
        ("data", "data.format   auto|promptcblue|pair|alpaca|messages|preference|text|exam, default auto"),
    ],
)
def test_types_choices_and_defaults_are_those_of_the_schema(topic, line):
    assert line in (topic_help(topic) or "").splitlines()


def test_the_parsed_schema_has_the_keys_of_the_imported_one():
    assert {key.name for key in read_schema()["Config"]} == {name.split(".")[0] for name in schema_keys()}


def test_a_topic_that_is_not_there(capsys):
    assert show_help(["--help", "optm"]) == 2
    assert capsys.readouterr().err == (
        "there is no group or key optm; did you mean --help optim? "
        "`python -m medtune --help` lists the groups.\n"
    )


def test_help_needs_only_the_standard_library():
    code = (
        "import sys; sys.argv[1:] = ['--help', 'optim']; from medtune.__main__ import main; main(); "
        "foreign = {name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names); "
        "sys.exit(str(foreign - {'medtune', '__main__', 'sitecustomize', 'usercustomize'}))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"
