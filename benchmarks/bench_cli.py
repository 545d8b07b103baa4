"""What the command line costs before anything is trained: CPU-seconds, best of three."""

from benchmarks.report import Figure, Usage, measure_python, report

REFUSED = {
    "an unknown key": ("optim.lrr=1e-5", "optim.lr"),
    "a wrong value": ("optim.lr=abc", "optim.lr"),
    "a wrong combination": ("data.global_batch_size=7", "data.global_batch_size=7"),
}


def main() -> None:
    help_ = best(["-m", "medtune", "--help"], returncode=0, says="python -m medtune")
    figures = [Figure("--help", help_.cpu_seconds, "CPU-s", budget=0.3)]
    for what, (override, says) in REFUSED.items():
        more = ["data.micro_batch_size=2"] if "batch" in override else []
        refused = best(["-m", "medtune", override, *more], returncode=2, says=says)
        figures.append(Figure(f"refusing {what}", refused.cpu_seconds, "CPU-s", budget=1.0))
    report("cli", figures)


def best(arguments: list[str], returncode: int, says: str) -> Usage:
    """The cheapest of three runs, after one that fills the disk cache; each must answer as expected."""
    runs = [measure_python(*arguments) for _ in range(4)][1:]
    for run in runs:
        if run.returncode != returncode or says not in run.output:
            raise RuntimeError(
                f"{arguments} ended with {run.returncode} instead of {returncode}:\n{run.output}"
            )
    return min(runs, key=lambda run: run.cpu_seconds)


if __name__ == "__main__":
    main()
