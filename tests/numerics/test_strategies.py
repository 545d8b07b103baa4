"""Two ranks under every strategy train as one process does: losses, norms, weights, resume, export."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.numerics.strategy_cases import ALL_STEPS, CASES, QUICK, SAVED_STEP, case_model, run_all
from tests.numerics.toy import relative_error, tiny_model

ROOT = Path(__file__).parents[2]
MIXED = ["mixed", "mixed_accumulated"]
FITS = ["accumulated", "clipped", "adamw", "lora", "tied", "drawn", "drawn_lora", *MIXED]
FITS += ["drawn_norm_head", "lora_head", "grouped", "lion", "adafactor"]
FITS += ["drawn_nf4", "drawn_int8", "drawn_dora_fp4", "drawn_pissa", "drawn_vera", "drawn_ia3"]
FITS += ["drawn_freeze", "drawn_norm_head_whole", "drawn_prompt"]

# A start costs some 20 seconds, most of it imports.
STRATEGIES = [
    pytest.param(("ddp", QUICK), id="ddp"),
    pytest.param(("fsdp", CASES), id="fsdp"),
    pytest.param(("zero3_offload", QUICK), id="zero3_offload"),
    *(
        pytest.param((name, CASES), id=f"{name}_all", marks=pytest.mark.slow)
        for name in ("ddp", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")
    ),
]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cases in this process alone."""
    return run_all("one", tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module", params=STRATEGIES)
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cases on two ranks that torchrun started, on a machine without a compiler."""
    strategy, cases = request.param
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    out = tmp_path_factory.mktemp(strategy)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": str(Path(sys.executable).parent),
        "TORCH_EXTENSIONS_DIR": str(out / "extensions"),
    }
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(ROOT / "tests/numerics/strategy_cases.py"), strategy, str(out), *cases,
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-8000:]
    results: dict[str, Any] = torch.load(out / "results.pt", weights_only=True)
    return results


def fits(results: dict[str, Any]) -> list[str]:
    """The cases that were run; the strategy may refuse an optimizer."""
    taken = [case for case in FITS if case in results]
    assert {*QUICK} - {*taken} == {"untouched"}
    return taken


def test_losses_norms_and_counters_are_those_of_one_process(one, two):
    for case in fits(two):
        assert two[case]["losses"] == pytest.approx(one[case]["losses"], rel=1e-5), case
        assert two[case]["norms"] == pytest.approx(one[case]["norms"], rel=1e-5), case
        assert torch.tensor(two[case]["val"]) == pytest.approx(torch.tensor(one[case]["val"]), rel=1e-5), case
        assert two[case]["tokens"] == one[case]["tokens"], case


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers
def test_updates_are_those_of_one_process(one, two):
    for case in fits(two):
        start = case_model(case).state_dict()
        assert relative_error(two[case]["weights"], one[case]["weights"], start) < 1e-5, case


def test_losses_by_source_are_those_of_one_process(one, two):
    """Without accumulation the first rank learns from one source alone and the second from the other."""
    for case in filter(two.get, MIXED):
        assert [line.keys() for line in two[case]["by_source"]] == [
            line.keys() for line in one[case]["by_source"]
        ]
        for found, expected in zip(two[case]["by_source"], one[case]["by_source"], strict=True):
            assert len(expected) == 2
            assert found == pytest.approx(expected, rel=1e-5), case


def test_what_answers_during_training_is_the_model_of_one_process(one, two):
    """Under FSDP2 and ZeRO-3 a copy that is gathered after the last step, of some cases twice."""
    for case in fits(two):
        expected = one[case]["logits"]
        assert sorted(expected) == sorted(two[case]["logits"]) == ([2, 3] if case in QUICK else [3]), case
        for step, logits in expected.items():
            apart = (two[case]["logits"][step] - logits).norm() / logits.norm()
            assert float(apart) < 1e-4, (case, step)  # the updates are equal within 1e-5
        assert case not in QUICK or not torch.equal(expected[2], expected[3]), case


def test_export_and_checkpoint_hold_the_trained_weights(one, two):
    for case in fits(two):
        assert two[case]["exported"].keys() == one[case]["exported"].keys(), case
        for name, tensor in one[case]["exported"].items():
            torch.testing.assert_close(two[case]["exported"][name], tensor, atol=1e-5, rtol=1e-5)
    for name, tensor in two["accumulated"]["exported"].items():
        torch.testing.assert_close(tensor, two["accumulated"]["weights"][name], atol=0, rtol=0)


def test_random_weights_are_those_of_one_process(two):
    """Inside DeepSpeed's own context the embedding would have a deviation of 1 instead of 0.02."""
    fresh = tiny_model().state_dict()
    for name, tensor in two["untouched"]["exported"].items():
        torch.testing.assert_close(tensor, fresh[name], atol=0, rtol=0)
    deviation = two["untouched"]["exported"]["model.embed_tokens.weight"].std()
    assert float(deviation) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("kind", ["", "adapted_"])
def test_a_resumed_fit_goes_on_as_if_it_had_not_stopped(two, kind):
    """With dropout: every rank's random stream is restored too. Adapted: PiSSA on 4 bits, made anew."""
    whole, resumed = two[f"{kind}whole"], two[f"{kind}resumed"]
    assert resumed["losses"] == whole["losses"][SAVED_STEP:]
    assert resumed["rows"] == whole["rows"][-len(resumed["rows"]) :]
    assert resumed["tokens"] == whole["tokens"]
    assert len(whole["losses"]) == ALL_STEPS
    for name, tensor in whole["exported"].items():
        torch.testing.assert_close(resumed["exported"][name], tensor, atol=0, rtol=0)


def test_ranks_stop_together_when_one_gets_a_signal(two):
    if "interrupted" not in two:
        pytest.skip("the same code under every strategy; DDP stands for all")
    result = two["interrupted"]["result"]
    assert (result["status"], result["signal_number"]) == ("interrupted", 15)
    # Sent in step 2, agreed on at the end of step 3.
    assert result["global_step"] == 3
    assert two["interrupted"]["checkpoints"] == [3]


def test_ranks_agree_on_when_to_save(one, two):
    """One process acts at once; with two the clock of the first is known to both a step later."""
    if "minutes" not in two:
        pytest.skip("the same code under every strategy; DDP stands for all")
    for name in ("minutes", "minutes_asynchronous"):
        assert one[name]["steps"] == [1, 2, 3, 4, 5, 6, 7]
        assert two[name]["steps"] == [2, 4, 6, 7]
        assert two[name]["files"] == {"state", "checkpoint.json", "rng-0.pt", "rng-1.pt"}
    tokens = [0, *one["tokens"]["tokens"]]
    assert two["tokens"]["tokens"] == one["tokens"]["tokens"]
    passed = [step for step in range(1, 8) if tokens[step - 1] // 100 < tokens[step] // 100]
    assert one["tokens"]["steps"] == sorted({*passed, 7})
    assert two["tokens"]["steps"] == sorted({*(min(7, step + 1) for step in passed), 7})
    assert 2 <= len(passed) <= 5


def test_half_precision_leaves_the_rotary_frequencies_alone(one, two):
    exact = tiny_model().model.rotary_emb.inv_freq
    for frequencies in (*one["half"]["frequencies"], *two["half"]["frequencies"]):
        assert torch.equal(frequencies, exact)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16-mixed", 1e-2), ("16-mixed", 2e-3)])
def test_half_precision_learns_what_one_process_learns(one, two, precision, tolerance):
    """With float16 the scale of the loss is DeepSpeed's own, and must be gone from the update."""
    if precision not in two["half"]["losses"]:
        pytest.skip("FSDP2 scales no losses; it is refused")
    expected = one["half"]["losses"][precision]
    assert two["half"]["losses"][precision] == pytest.approx(expected, rel=tolerance)


def test_all_cases_are_compared():
    assert {*FITS, "untouched"} == CASES.keys()
