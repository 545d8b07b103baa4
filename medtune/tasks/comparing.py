"""``evaluate.against``: a split's answers against those of another run to the same records."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from medtune.config.schema import Config
from medtune.evaluation.comparison import comparison_table, plot_comparison
from medtune.evaluation.promptcblue.matching import Matched, list_few, match, name_record
from medtune.evaluation.promptcblue.predictions_file import read_predictions
from medtune.evaluation.promptcblue.protocols import Protocol
from medtune.evaluation.promptcblue.records import Reference, Row, read_rows
from medtune.runtime.record import RunFolder, read_json, write_json

FILE = "predictions"
"""What a predictions file is called where a split would have its name."""


def file_name(split: str) -> str:
    """A split's name as that of a file; in a mix it has a slash."""
    return split.replace("/", "_")


def compare(
    config: Config,
    folder: RunFolder,
    split: str,
    references: Sequence[Reference],
    rows: Sequence[Row],
    rules: Protocol,
) -> None:
    """Compares the rows with another run's answers to the same records, and shows the differences."""
    from medtune.evaluation.promptcblue.resampling import compare_rows  # draws numpy in

    against = Path(str(config.evaluate.against))
    path, other = read_other(config, split, references)
    comparison = compare_rows(rows, read_rows(references, other.texts, rules), rules, config.seed)
    before = read_json(folder.comparison_file)["splits"] if folder.comparison_file.exists() else {}
    found = {"against": str(path), "protocol": rules.name, **comparison.to_dict()}
    splits = {**before, split: found}
    headline = next(iter(splits))
    write_json(folder.comparison_file, {"split": headline, **splits[headline], "splits": splits})
    title = f"{split}: this run against {against}"
    console = Console()
    console.print(comparison_table(comparison, title))
    console.print(f"comparison: {folder.comparison_file}", soft_wrap=True, highlight=False, markup=False)
    plot_comparison(comparison, folder.plots / f"comparison_{file_name(split)}.png", split)


def read_other(config: Config, split: str, references: Sequence[Reference]) -> tuple[Path, Matched]:
    """The file of answers that ``evaluate.against`` means for a split, and what it says to each record.

    Raises:
        ValueError: There is none, or it does not answer just these records.
    """
    path = find_answers(Path(str(config.evaluate.against)), config.generate.split or split)
    other = match([reference.record for reference in references], read_predictions(path))
    refuse_other_rows(other, references, path)
    return path, other


def find_answers(against: Path, split: str) -> Path:
    """The predictions file that ``evaluate.against`` means: itself, or a run's for the split.

    Raises:
        ValueError: The run has none, or several of which none has the split's name.
    """
    if not against.is_dir():
        return against
    folder = RunFolder(against).predictions
    for name in (split, FILE):
        if (folder / f"{name}.jsonl").is_file():
            return folder / f"{name}.jsonl"
    found = [path for path in sorted(folder.rglob("*.jsonl")) if not path.stem.endswith("_untrained")]
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path.relative_to(folder)) for path in found) or "nothing"
    raise ValueError(
        f"evaluate.against={against}: no {split}.jsonl in its predictions, but {names}; "
        "name the file: evaluate.against=FILE"
    )


def refuse_other_rows(other: Matched, references: Sequence[Reference], path: Path) -> None:
    """Raises ValueError where a file does not answer just the records that are compared."""
    if (problems := other.to_text()) is not None:
        raise ValueError(f"{path} cannot be compared: {problems}; both runs must answer the same records")
    strange = [
        name_record(reference.record, index)
        for index, (reference, found) in enumerate(zip(references, other.found, strict=True))
        if found is not None and is_other_record(found, reference.record)
    ]
    if strange:
        raise ValueError(
            f"{path} cannot be compared: {len(strange)} rows have another task or input than their record "
            f"({list_few(strange)}); both runs must answer the same records"
        )


def is_other_record(found: Mapping[str, object], record: Mapping[str, object]) -> bool:
    """Whether a row answers something else than a record of the same id; a field left empty says nothing."""
    return any(
        found.get(name) and record.get(name) and found[name] != record[name]
        for name in ("task_dataset", "input")
    )
