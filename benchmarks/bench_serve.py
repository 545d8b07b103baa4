"""The server under 64 clients: tokens/s against one client at a time, and a soak with hostile ones.

Every answer is compared with what the engine gives when it is asked alone. Fails loudly on a wrong answer, on
rows that are left over, and on memory that grows.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles

import psutil

from benchmarks.report import ONE_THREAD, Figure, report, run_child
from benchmarks.serve_load import Load, Question, Tally, hostile_requests, run_load, until_idle
from medtune.runtime.hardware import PROJECT

MODEL_NAME, CONTEXT, MOST_BYTES = "bench", 1024, 100_000
CLIENTS, QUESTIONS = 64, 160
START_SECONDS = 120.0
SPREAD_MB = 40.0  # what memory may vary by between the middle and the end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the soak")
    parser.add_argument(
        "--plain-seconds", type=float, default=20.0, help="of each load without hostile clients"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medtune-bench-") as parent:
        folder = Path(parent)
        run_child("benchmarks.bench_serve", "make", str(folder))
        rows = json.loads((folder / "questions.json").read_text(encoding="utf-8"))
        questions = [Question(**row) for row in rows]
        with server(folder) as (url, process):
            figures, problems = asyncio.run(measure(url, process, questions, options))
    report("serve", figures)
    if problems:
        raise SystemExit("bench serve FAILED:\n" + "\n".join(problems[:20]))


async def measure(
    url: str, process: psutil.Process, questions: list[Question], options: argparse.Namespace
) -> tuple[list[Figure], list[str]]:
    """Runs the three loads; gives the figures, and what was wrong."""
    before = resident_mb(process)
    alone = await run_load(url, Load(1, options.plain_seconds, seed=1), questions)
    many = await run_load(url, Load(CLIENTS, options.plain_seconds, seed=2), questions)
    whole = await run_load(url, Load(CLIENTS, options.plain_seconds, streams=0.0, seed=3), questions)
    start = resident_mb(process)
    refused = hostile_requests(MODEL_NAME, "头痛发热" * 2000, MOST_BYTES)
    halves = []
    for seed in (4, 5):
        halves.append(
            await run_load(
                url, Load(CLIENTS, options.seconds / 2, hostile=0.3, seed=seed), questions, refused
            )
        )
        counts = await until_idle(url)
        halves[-1].statuses[0] = round(resident_mb(process))
    middle, end = (half.statuses.pop(0) for half in halves)
    problems = [wrong for tally in (alone, many, whole, *halves) for wrong in tally.wrong]
    left_over = (
        counts["medtune_batch_rows"] + counts["medtune_queue_rows"] + counts["medtune_requests_open"] - 1
    )
    if left_over:
        problems.append(f"{left_over:g} rows or requests are left over: {counts}")
    if counts["medtune_model_errors_total"]:
        problems.append(f"the model failed {counts['medtune_model_errors_total']:g} times")
    if end > middle + SPREAD_MB:
        problems.append(f"memory grows: {middle} MB in the middle, {end} MB at the end")
    rate_alone = alone.tokens / options.plain_seconds
    rate = many.tokens / options.plain_seconds
    soak = halves[0]
    for name in ("requests", "answered", "tokens", "left"):
        setattr(soak, name, sum(getattr(half, name) for half in halves))
    soak.statuses += halves[1].statuses
    soak.first_token_seconds += halves[1].first_token_seconds
    return [
        Figure("one client at a time", rate_alone, "tok/s"),
        Figure(f"{CLIENTS} clients, 70 % streams", rate, "tok/s"),
        Figure(f"{CLIENTS} clients, no streams", whole.tokens / options.plain_seconds, "tok/s"),
        Figure(f"{CLIENTS} clients against one", rate / rate_alone, "x", 3.0, "higher"),
        *latencies("first token, one client", alone),
        *latencies(f"first token, {CLIENTS} clients", many),
        Figure("soak", options.seconds, "s"),
        Figure("soak: requests", soak.requests, ""),
        Figure("soak: answers, all right", soak.answered, ""),
        Figure("soak: clients that left", soak.left, ""),
        Figure("soak: tokens of whole answers", soak.tokens / options.seconds, "tok/s"),
        *latencies("soak: first token", soak),
        *(Figure(f"soak: status {status}", count, "") for status, count in sorted(soak.statuses.items())),
        Figure("soak: rows left over", left_over, "", 0),
        Figure("soak: wrong answers", len(problems), "", 0),
        Figure("memory: model loaded", before, "MB"),
        Figure("memory: before the soak", start, "MB"),
        Figure("memory: in its middle", middle, "MB"),
        Figure("memory: at its end", end, "MB", middle + SPREAD_MB),
        Figure(
            "rows per step, all loads", counts["medtune_step_rows_total"] / counts["medtune_steps_total"], ""
        ),
        Figure(
            "a step, all loads",
            1000 * counts["medtune_step_seconds_total"] / counts["medtune_steps_total"],
            "ms",
        ),
    ], problems


def latencies(name: str, tally: Tally) -> list[Figure]:
    """Median and 99th percentile, in milliseconds."""
    cuts = quantiles([1000 * seconds for seconds in tally.first_token_seconds], n=100)
    return [Figure(f"{name}, p50", cuts[49], "ms"), Figure(f"{name}, p99", cuts[98], "ms")]


def resident_mb(process: psutil.Process) -> float:
    """Memory of the server's process."""
    return float(process.memory_info().rss / 2**20)


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """``task=serve`` as a user starts it; gives its address and the process of the model."""
    run_dir = folder / "run"
    settings = [
        *("task=serve", "model=local", f"model.path={folder / 'model'}", "template=plain"),
        *(f"run_dir={run_dir}", "serve.port=0", f"serve.model_name={MODEL_NAME}", "trainer.accelerator=cpu"),
        *(f"serve.max_body_bytes={MOST_BYTES}", "serve.max_queue=256", "serve.client_timeout=10"),
        "trainer.precision=32-true",
    ]
    log = (folder / "server.log").open("w+")
    child = subprocess.Popen(
        [sys.executable, "-m", "medtune", *settings],
        cwd=PROJECT,
        env={**os.environ, **ONE_THREAD},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        result = run_dir / "result.json"
        while not result.is_file():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{(folder / 'server.log').read_text()}")
            time.sleep(0.1)
        url = json.loads(result.read_text(encoding="utf-8"))["url"]
        [worker] = psutil.Process(child.pid).children()
        yield url, worker
    finally:
        child.terminate()
        code = child.wait(60)
        if code:
            log.seek(0)
            print(f"the server ended with {code}:\n{log.read()[-3000:]}")
        log.close()


def make(folder: Path) -> None:
    """A random model, and questions with the answers that it gives when each is asked alone."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from medtune.config.schema import TemplateConfig
    from medtune.data.tokens.templates import Template
    from medtune.generation.engine import TransformersEngine
    from medtune.generation.settings import SamplingSettings
    from medtune.generation.text import decode

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(PROJECT / "data" / "sample" / "tokenizer")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).double()  # so that rounding, which the rows beside one decide, cannot change a token that is drawn
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Larger weights, so that answers are not one token again and again.
            parameter.mul_(6.0 if parameter.dim() > 1 else 1.0)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    template = Template.from_tokenizer(TemplateConfig(), tokenizer)
    engine = TransformersEngine.from_tokenizer(model, tokenizer, template.stop_ids)
    rng = random.Random(0)
    questions = []
    while len(questions) < QUESTIONS:
        prompt = "".join(
            rng.choice("头痛发热咳嗽患者三天怎么办血压高药物abc，。") for _ in range(rng.randint(5, 150))
        )
        body = {
            "model": MODEL_NAME,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": rng.randint(8, 96),
        }
        if rng.random() < 0.3:
            body |= {"temperature": 0.8, "top_p": 0.9, "seed": rng.randrange(1000)}
        if rng.random() < 0.1:
            body |= {"repetition_penalty": 1.3}
        settings = SamplingSettings(
            max_new_tokens=body["max_tokens"],
            temperature=body.get("temperature", 0.0),
            top_p=body.get("top_p", 1.0),
            repetition_penalty=body.get("repetition_penalty", 1.0),
            seed=body.get("seed", 0),
        )
        [ids] = engine.generate([template.prompt_ids(prompt)], settings)
        answer = decode(tokenizer, ids)
        if len(answer) > 20 and rng.random() < 0.2:
            start = rng.randrange(4, len(answer) - 4)
            stop = answer[start : start + rng.randint(1, 3)]
            if "\ufffd" in answer:
                continue
            ids = next(ids[:end] for end in range(len(ids) + 1) if stop in decode(tokenizer, ids[:end]))
            body, answer = {**body, "stop": [stop]}, answer[: answer.index(stop)]
        questions.append({"body": body, "answer": answer, "tokens": len(ids)})
    (folder / "questions.json").write_text(json.dumps(questions), encoding="utf-8")
    print(json.dumps({"questions": len(questions)}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]))
    else:
        main()
