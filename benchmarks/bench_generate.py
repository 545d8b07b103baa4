"""Answering prompts of PromptCBLUE's lengths: our batches, a row at a time, transformers by eight.

All with the built-in model's network, greedily, and with equal tokens, or the benchmark fails. The weights
are random and larger than usual, so that rounding changes no token; some tokens of the vocabulary end an
answer, so that answers are of all lengths.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.report import Figure, report, run_child

NEW_TOKENS, EIGHT = 128, 8
# Of the other ways, so many of the prompts, evenly from all: the whole would take as many times longer.
ALONE, BATCHES = 100, 400
STOP_EVERY = 40  # each so-manieth token of the vocabulary ends an answer
TOKENS_PER_CHARACTER = 0.65  # Baichuan's tokenizer on Chinese
# 95th percentile and greatest length of each task's prompts in characters (test set A).
LENGTHS = (
    *((1404, 4379), (1349, 2050), (671, 1417), (175, 1904), (405, 603), (302, 528), (196, 410), (253, 774)),
    *((246, 349), (221, 319), (203, 203), (203, 203), (150, 203), (150, 203), (150, 203), (150, 203)),
)
Answers = list[list[int]]


def main() -> None:
    options = read()
    found = run_child("benchmarks.bench_generate", "child", options.device, str(options.prompts))
    unit = "tok/CPU-s" if options.device == "cpu" else "tok/s"
    name = "generate" if options.device == "cpu" else f"generate_{options.device}"
    report(
        name,
        [
            Figure("prompts", found["prompts"], ""),
            Figure("tokens in a prompt", found["prompt_tokens"] / found["prompts"], ""),
            Figure("tokens in an answer", found["answer_tokens"] / found["prompts"], ""),
            Figure("all in our batches", found["seconds"], "s"),
            Figure("our batches", found["ours"], unit),
            Figure("ours, a row at a time", found["alone"], unit),
            Figure("transformers, a row at a time", found["alone_transformers"], unit),
            Figure("transformers, batches of 8", found["eight"], unit),
            Figure("against ours, a row at a time", found["ours"] / found["alone"], "x", 4.0, "higher"),
            Figure(
                "against transformers, a row at a time",
                found["ours"] / found["alone_transformers"],
                *("x", 4.0, "higher"),
            ),
            Figure("against transformers, batches of 8", found["ours"] / found["eight"], "x", 1.0, "higher"),
        ],
    )


def read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_generate", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--prompts", type=int, default=2000, help="how many (default: 2000)")
    return parser.parse_args()


def prompts_of(count: int, vocabulary: int) -> Answers:
    """Random ids; a sixteenth of the prompts is as long as each task's are."""
    rng = random.Random(0)
    prompts = []
    for number in range(count):
        high, most = LENGTHS[number % len(LENGTHS)]
        # Lognormal, half as long in the middle as at the 95th percentile (1.645 deviations away).
        length = min(most, high / 2 * 2 ** (rng.gauss(0, 1) / 1.645)) * TOKENS_PER_CHARACTER
        prompts.append([rng.randrange(3, vocabulary) for _ in range(max(5, round(length)))])
    rng.shuffle(prompts)
    return prompts


def child(device: str, count: int) -> dict[str, float]:
    """Answers all four ways; fails unless the tokens are equal."""
    import torch

    from medtune.generation.engine import TransformersEngine
    from medtune.generation.settings import SamplingSettings

    model = random_model(device)
    stops = list(range(5, model.config.vocab_size, STOP_EVERY))
    prompts = prompts_of(count, model.config.vocab_size)
    engine = TransformersEngine(model, stops)
    settings = SamplingSettings(max_new_tokens=NEW_TOKENS, batch_tokens=32768)
    clock = time.process_time if device == "cpu" else time.monotonic

    def timed(work: Callable[[], Answers]) -> tuple[Answers, float]:
        started = clock()
        result = work()
        return result, clock() - started

    def with_transformers(chosen: Sequence[list[int]], size: int) -> Answers:
        answers = []
        for start in range(0, len(chosen), size):
            rows = chosen[start : start + size]
            width = max(map(len, rows))
            padded = [[0] * (width - len(row)) + row for row in rows]
            mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
            with torch.inference_mode():
                output = model.generate(
                    torch.tensor(padded, device=device),
                    attention_mask=torch.tensor(mask, device=device),
                    max_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    eos_token_id=stops,
                    pad_token_id=0,
                )
            answers += [up_to_stop(answer, {*stops}) for answer in output[:, width:].tolist()]
        return answers

    some, few = range(0, count, -(-count // BATCHES)), range(0, count, -(-count // ALONE))
    engine.generate(prompts[:8], SamplingSettings(max_new_tokens=2))  # what only the first call costs
    ours, seconds = timed(lambda: engine.generate(prompts, settings))
    eight, eight_s = timed(lambda: with_transformers([prompts[row] for row in some], EIGHT))
    alone, alone_s = timed(lambda: [list(engine.stream(prompts[row], settings)) for row in few])
    reference, reference_s = timed(lambda: with_transformers([prompts[row] for row in few], 1))
    if eight != [ours[row] for row in some] or not (alone == reference == [ours[row] for row in few]):
        raise RuntimeError("the answers differ")
    return {
        "prompts": count,
        "prompt_tokens": sum(map(len, prompts)),
        "answer_tokens": sum(map(len, ours)),
        "seconds": seconds,
        "ours": sum(map(len, ours)) / seconds,
        "eight": sum(map(len, eight)) / eight_s,
        "alone": sum(map(len, alone)) / alone_s,
        "alone_transformers": sum(map(len, reference)) / reference_s,
    }


def random_model(device: str):
    """The network of ``model=tiny``."""
    import torch

    from medtune.config.schema import Config, ModelConfig
    from medtune.models.load import load_model
    from medtune.runtime.hardware import PROJECT

    network = ModelConfig(
        init="random",
        model_type="baichuan",
        tokenizer=str(PROJECT / "data" / "sample" / "tokenizer"),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = load_model(Config(model=network), for_training=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0 if parameter.dim() > 1 else 1.0)
    return model.to(device)


def up_to_stop(answer: list[int], stops: set[int]) -> list[int]:
    """An answer without its stop token and the padding behind it."""
    return answer[: next((place for place, token in enumerate(answer) if token in stops), len(answer))]


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(child(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
