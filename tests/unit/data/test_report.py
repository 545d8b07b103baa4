"""The ledger for people: on the screen, as Markdown, as a picture."""

import re

import pytest
from matplotlib.image import imread

from medtune.data.ledger import split_ledger
from medtune.data.report import HEADER, ledger_text, plot_data, write_markdown
from tests.unit.data.made_corpora import Talk, ask, config_of, corpus_of, made_source

BROKEN = '{"input": 1}'


@pytest.fixture
def sources(tmp_path):
    """Pairs of which something is dropped by every cause, and texts."""
    same = ask("same", "x")
    train = [
        same,
        same,
        BROKEN,
        ask("?"),
        ask("long " * 20),
        ask("known"),
        *(ask(f"q {n}") for n in range(9)),
    ]
    splits = {"train": train, "test": [ask("known", None)], "validation": [ask("v v v")]}
    pairs = made_source(
        tmp_path, "pairs", splits=splits,
        on_error="skip", filter={"min_chars": 4}, overlong="drop", max_tokens=60,
    )  # fmt: skip
    texts = [Talk(text=f"a text of some words, {n}") for n in range(12)]
    return pairs, made_source(tmp_path, "texts", "text", {"train": texts}, validation_size=3.0)


@pytest.fixture
def made(tmp_path, tiny_tokenizer, sources):
    """(ledgers, report) of the mix."""
    config = config_of(tmp_path, *sources, dedup="exact", contamination="remove")
    corpus = corpus_of(config, tiny_tokenizer)
    ledgers = {name: split_ledger(split) for name, split in corpus.splits.items()}
    return ledgers, {
        "objective": "sft", "template": "made", "packing": "bfd",
        "splits": ledgers, "duplicates": corpus.duplicates.as_dict(),
    }  # fmt: skip


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_text_has_a_line_for_every_source_and_its_rows(made):
    ledgers, _ = made
    lines = ledger_text(ledgers).splitlines()
    assert re.split(r"\s{2,}", lines[0]) == list(HEADER)
    table = [re.split(r"\s{2,}", line) for line in lines[1:5]]
    assert [row[:2] for row in table] == [
        ["train", "pairs"], ["train", "texts"], ["validation", "pairs"], ["validation", "texts"],
    ]  # fmt: skip
    for split, name, *numbers in table:
        source = ledgers[split]["sources"][name]
        assert numbers[:6] == [
            f"{number:,}"
            for number in (
                source["documents"]["read"], sum(source["documents"]["dropped"].values()),
                source["documents"]["kept"], source["tokens"]["kept"], source["tokens"]["cut"],
                source["mix"]["learned_tokens"],
            )
        ]  # fmt: skip
        assert numbers[6:] == [f"{source['mix'][key]:.4f}" for key in ("wanted", "realised")] + ["1.00"]
    rows = ledgers["train"]["rows"]
    assert lines[5] == (
        f"train: {rows['count']} rows of 64, {rows['tokens']} tokens, "
        f"{100 * rows['padding'] / rows['room']:.2f} % padding"
    )
    dropped = ledgers["train"]["sources"]["pairs"]["documents"]["dropped"]
    assert set(dropped) == {"error", "min_chars", "duplicate", "contaminated", "overlong", "capped"}
    assert lines[6] == "  pairs dropped: " + ", ".join(f"{cause} {count}" for cause, count in dropped.items())
    assert lines[7] == "  texts dropped: validation 3"


def test_columns_stand_below_each_other(made):
    lines = ledger_text(made[0]).splitlines()[:5]
    ends = [[match.end() for match in re.finditer(r"\S+(?: \S+)*", line)] for line in lines]
    assert all(found[2:] == ends[0][2:] for found in ends)


def test_the_markdown_names_everything(tmp_path, made):
    ledgers, report = made
    write_markdown(tmp_path / "data_report.md", report)
    text = (tmp_path / "data_report.md").read_text(encoding="utf-8")
    table = [cells_of(line) for line in text.splitlines() if line.startswith("|")]
    assert table[0] == list(HEADER)
    assert table[1] == ["---"] * 2 + ["---:"] * (len(HEADER) - 2)
    assert len(table) == 2 + 4
    assert {len(row) for row in table} == {len(HEADER)}
    for cause in ("error", "min_chars", "duplicate", "contaminated", "overlong", "capped"):
        assert re.search(rf"^  - pairs dropped: .*\b{cause} \d", text, re.MULTILINE), cause
    assert "- pairs and pairs/test: 1 with an equal prompt or content\nThey are removed." in text
    for split, ledger in ledgers.items():
        for name, source in ledger["sources"].items():
            assert f"- **{name}** ({split}): {source['files'][0]}; learned: {source['learned']}" in text
            assert source["cache"] in text
    assert "![lengths and row fill](plots/data.png)" in text
    assert "objective=sft, packing=bfd, template=made" in text


def test_no_contamination_and_a_single_source_have_less_to_say(tmp_path, tiny_tokenizer):
    source = made_source(tmp_path, "a|b", splits={"train": [ask("q"), ask("r")], "test": [ask("z", None)]})
    corpus = corpus_of(config_of(tmp_path, source), tiny_tokenizer)
    splits = {"train": split_ledger(corpus.splits["train"])}
    about = {"objective": "sft", "template": "made", "packing": "bfd"}
    write_markdown(tmp_path / "r.md", {**about, "splits": splits, "duplicates": corpus.duplicates.as_dict()})
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "None were found." in text
    assert "dropped:" not in text
    row = text.splitlines()[6]
    assert row.startswith("| train | a\\|b | 2 | 0 | 2 | ")
    assert row.endswith(" | - | - | 1.00 |")


def test_many_files_are_not_all_named(tmp_path, made):
    _, report = made
    source = report["splits"]["train"]["sources"]["texts"]
    source["files"] = [f"part-{number}.txt" for number in range(11)]
    write_markdown(tmp_path / "r.md", report)
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    assert "part-6.txt, part-7.txt and 3 more; learned" in text
    assert "part-8.txt" not in text


def test_a_picture_of_several_sources(tmp_path, made):
    plot_data(made[0], tmp_path / "plots" / "data.png")
    picture = imread(tmp_path / "plots" / "data.png")
    assert picture.shape == (480, 1080, 4)
    assert picture[..., :3].std() > 0.05  # not a blank page


@pytest.mark.parametrize("has_empty", [False, True], ids=["one", "beside_an_empty_one"])
def test_a_picture_without_validation(tmp_path, tiny_tokenizer, has_empty):
    sources = [made_source(tmp_path, "full", splits={"train": [ask("q"), ask("r")]}, weight=1.0)]
    if has_empty:
        filter = {"min_chars": 99}
        sources += [made_source(tmp_path, "none", splits={"train": [ask("q")]}, filter=filter, weight=0.0)]
    split = corpus_of(config_of(tmp_path, *sources), tiny_tokenizer).splits["train"]
    plot_data({"train": split_ledger(split)}, tmp_path / "data.png")
    assert imread(tmp_path / "data.png").shape == (480, 1080, 4)
    assert ("none" in ledger_text({"train": split_ledger(split)})) == has_empty
