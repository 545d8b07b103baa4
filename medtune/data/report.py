"""The ledger for people: a table on the screen, ``data_report.md``, and a picture of the lengths."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtune.runtime.record import write_text

Ledger = Mapping[str, Any]
FILES_SHOWN = 8
BAR = r"\|"  # a bar within a cell of a table
HEADER = (
    "split",
    "source",
    "read",
    "dropped",
    "kept",
    "tokens",
    "cut",
    "learned",
    "mix wanted",
    "realised",
    "passes",
)


def ledger_text(splits: Mapping[str, Ledger]) -> str:
    """The splits' ledgers as aligned plain text: a line per source, and one per split about its rows."""
    table = [list(HEADER), *source_rows(splits)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
    left = 2  # the names; numbers stand right
    lines = [
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([*lines, *row_lines(splits)])


def source_rows(splits: Mapping[str, Ledger]) -> list[list[str]]:
    """The cells of each source of each split."""
    cells = []
    for split, ledger in splits.items():
        for name, source in ledger["sources"].items():
            documents, tokens, mix = source["documents"], source["tokens"], source["mix"]
            is_mix = len(ledger["sources"]) > 1
            cells.append(
                [
                    split,
                    name,
                    f"{documents['read']:,}",
                    f"{sum(documents['dropped'].values()):,}",
                    f"{documents['kept']:,}",
                    f"{tokens['kept']:,}",
                    f"{tokens['cut']:,}",
                    f"{mix['learned_tokens']:,}",
                    f"{mix['wanted']:.4f}" if is_mix else "-",
                    f"{mix['realised']:.4f}" if is_mix else "-",
                    f"{mix['passes']:.2f}",
                ]
            )
    return cells


def row_lines(splits: Mapping[str, Ledger]) -> list[str]:
    """One line about the rows of each split, and one for each cause that records were dropped for."""
    lines = []
    for split, ledger in splits.items():
        rows = ledger["rows"]
        lines.append(
            f"{split}: {rows['count']:,} rows of {rows['sequence_length']}, {rows['tokens']:,} tokens, "
            f"{100 * (1 - rows['utilisation']):.2f} % padding"
        )
        for name, source in ledger["sources"].items():
            dropped = {cause: count for cause, count in source["documents"]["dropped"].items() if count}
            if dropped:
                causes = ", ".join(f"{cause} {count:,}" for cause, count in dropped.items())
                lines.append(f"  {name} dropped: {causes}")
    return lines


def write_markdown(path: Path, report: Mapping[str, Any]) -> None:
    """Writes ``data_report.md``: the ledger's table, rows, duplicates, and where everything came from."""
    splits = report["splits"]
    blocks = [
        "# Data report",
        f"objective={report['objective']}, packing={report['packing']}, template={report['template']}",
        markdown_table(splits),
        "\n".join(
            f"- {line}" if not line.startswith(" ") else f"  - {line.strip()}" for line in row_lines(splits)
        ),
        "![lengths and row fill](plots/data.png)",
        "## Training examples that are in a held-out split",
        contamination_text(report["duplicates"]),
        "## Sources",
        "\n".join(
            source_line(name, split, source)
            for split, ledger in splits.items()
            for name, source in ledger["sources"].items()
        ),
    ]
    write_text(path, "\n\n".join(blocks) + "\n")


def markdown_table(splits: Mapping[str, Ledger]) -> str:
    """The ledger as a Markdown table."""
    rows = [HEADER, ["---", "---", *["---:"] * (len(HEADER) - 2)], *source_rows(splits)]
    return "\n".join(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |" for cells in rows)


def contamination_text(duplicates: Mapping[str, Any]) -> str:
    """Which sources share examples with which held-out splits."""
    found = [entry for entry in duplicates["contamination"] if entry["exact"] or entry["near"]]
    lines = [
        f"- {entry['source']} and {entry['split']}: {entry['exact']:,} with an equal prompt or content"
        + ("" if entry["near"] is None else f", {entry['near']:,} similar")
        for entry in found
    ]
    return "\n".join([*lines, f"They are {duplicates['contaminated']}."]) if lines else "None were found."


def source_line(name: str, split: str, source: Mapping[str, Any]) -> str:
    """Where a source came from, in one item of a list."""
    files = source["files"]
    shown = ", ".join(files[:FILES_SHOWN]) + (
        f" and {len(files) - FILES_SHOWN} more" if len(files) > FILES_SHOWN else ""
    )
    lengths = ", ".join(f"{point} {length:,}" for point, length in source["length_quantiles"].items())
    return (
        f"- **{name}** ({split}): {shown}; learned: {source['learned']}; ids by {source['encoder']}; cache "
        f"{source['cache']}; {source['with_eos']:,} end with EOS, {source['repeated_sample_ids']:,} "
        f"repeat a sample id; tokens of a document: {lengths}"
    )


def plot_data(splits: Mapping[str, Ledger], picture: Path) -> None:
    """Draws the lengths of each training source's documents, and how full the rows are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, source in splits["train"]["sources"].items():
        bars = source["length_histogram"]
        if bars:
            left.stairs(bars["counts"], bars["edges"], label=f"{name} ({sum(bars['counts']):,})")
    left.axvline(splits["train"]["rows"]["sequence_length"], color="tab:gray", linestyle=":")
    left.set(xlabel="tokens of a document", ylabel="documents", yscale="symlog")
    left.legend()
    for split, ledger in splits.items():
        bars = ledger["rows"]["fill_histogram"]
        right.stairs(bars["counts"], bars["edges"], label=f"{split} ({ledger['rows']['count']:,} rows)")
    right.set(xlabel="tokens of a row", ylabel="rows", yscale="symlog")
    right.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
