"""``python hostile_file.py BYTES FOLDER``: scores hostile predictions under limits of time and memory."""

import json
import resource
import sys
from pathlib import Path

CPU_SECONDS, MEMORY = 600, 3 << 30

# One line's pattern, repeated up to the asked size. None of them may cost more than its length.
LONG = {
    "CMeEE-V2": ("疾病实体：", lambda n: f"咳{n}，"),
    "IMCS-V2-NER": ("", lambda n: "症状实体：发热，咳嗽\n"),
    "CMeIE": ("具有病因关系的头尾实体对如下：", lambda n: f"头实体为{n}，尾实体为乙。"),
    "CMeIE-V2": ("", lambda n: "具有病因关系的头尾实体对如下：头实体为甲，尾实体为乙。\n"),
    "CHIP-CDN": ("", lambda n: f"{n}，"),
    "CHIP-CDEE": ("\n", lambda n: f"主体词：{n}；描述词：a，b\n" if n % 2 else "\n"),
    "CHIP-MDCFNPC": ("", lambda n: f"\n发热{n}：已有"),
    "IMCS-V2-SR": ("", lambda n: f"\n咳嗽{n}：患有该症状"),
    "IMCS-V2-DAC": ("", lambda n: f"类别{n} "),
    "KUAKE-QIC": ("", lambda n: "\x00\x07\x1b[2J"),
    "CHIP-CTC": ("=", lambda n: "=cmd|'/c calc'!A1"),
    "CHIP-STS": ("", lambda n: "是的\n"),
    "KUAKE-IR": ("", lambda n: "\ud800"),
    "KUAKE-QQR": ("", lambda n: "[" if n % 2 else "{"),
    "KUAKE-QTR": ("", lambda n: "'\"\\"),
    "IMCS-V2-MRG": ("\n主诉：", lambda n: f"咳嗽{n}天。\n诊断："),
    "MedDG": ("", lambda n: "e\u0301\u0323" if n % 9999 == 0 else "\u0301\u0323"),  # marks in turns
    "Text2DT": ("", lambda n: f"1：role={'CDD'[n % 3]}；triples=[['a', 'b', '{n}']]\n"),
    "CMedCausal": ("因果关系三元组如下\n", lambda n: f"头实体：{n}；尾实体：乙\n"),
}
CODE = "__import__('pathlib').Path({path!r}).write_text('run')"
# Texts that a second row of Text2DT gets by turns, and values in the place of a text.
LITERALS = [
    *("[[{code}]]", "[{code}]", "[['a', 'b', {code}]]", "[" * 100_000, "-" * 99_999 + "1", "{{" * 50_000),
    *(
        "'" * 99_999,
        "[['a', 'b', 'c' * 9**9]]",
        "9**9**9",
        "[['a'] * 3 for _ in range(10**9)]",
        "f'{{{code}}}'",
    ),
    "not " * 20_000,
]
LINES = [
    *(
        '{"target": NaN}',
        '{"target": ' + "[" * 100_000,
        '{"a": ' * 50_000,
        '{"target": "\\ud800"}',
        "\x00",
        "{",
    ),
    *(
        "null",
        '{"sample_id": [[[]]], "target": "x"}',
        '{"target": ' + "9" * 10_000 + "}",
        '{"target": 1e999}',
    ),
    '"' + "a" * 10**6,
]


def make_text(task: str, size: int) -> str:
    start, piece = LONG[task]
    count = size // len(piece(7).encode(errors="replace"))
    return start + "".join(map(piece, range(count)))


def make_file(path: Path, gold: list[dict], size: int, executed: Path) -> None:
    code = CODE.format(path=str(executed))
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
        for place, record in enumerate(gold):
            task = record["task_dataset"]
            if place % 2 == 0 or task != "Text2DT":
                text = make_text(task, size)
            else:
                nodes = (f"{n}：role=D；triples={text.format(code=code)}" for n, text in enumerate(LITERALS))
                text = "\n".join(nodes)
            file.write(json.dumps({**record, "target": text}) + "\n")
        for line in LINES:
            file.write(line + "\n")
        # Every choice is held against every line.
        many = [f"选{n}" for n in range(100_000)]
        lines = "选实体\n" * 100_000
        file.write(json.dumps({**gold[0], "answer_choices": many, "target": lines}) + "\n")


def main(size: int, folder: Path) -> None:
    from medtune.evaluation.promptcblue.confusion import count_confusions, write_table
    from medtune.evaluation.promptcblue.submission import score_submission
    from medtune.evaluation.promptcblue.worst import find_worst
    from tests.unit.evaluation.promptcblue_files import GOLD, PROTOCOLS, score_file

    executed = folder / "executed"
    figures = {}
    for protocol, gold in GOLD.items():
        path = folder / f"{protocol}.jsonl"
        make_file(path, gold, size, executed)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        found = score_file(path, protocol)
        # The same rows without the lines that end the official reading at once, so that it meets all texts.
        readable = [record for record in found.matched.records if "task_dataset" in record]
        official = score_submission(gold, readable, protocol)
        rules = PROTOCOLS[protocol]
        worst = json.dumps(find_worst(found.rows, found.matched.texts, 20, rules)).encode()
        tables = "".join(map(write_table, count_confusions(found.rows, rules)))
        assert official.score == found.scores.official_score == 0
        figures[protocol] = {
            "robust": found.scores.robust_score,
            "worst_bytes": len(worst),
            "table_bytes": len(tables.encode()),
            "malformed": len(found.matched.malformed),
        }
        path.unlink()
    cpu = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    print(json.dumps({**figures, "executed": executed.exists(), "cpu": cpu, "mb": peak_mb()}))


def peak_mb() -> int:
    """The peak of this process; getrusage would count that of the one that started it too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
