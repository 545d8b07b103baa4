import subprocess
import sys

import pytest

from medtune.config.schema import AdapterConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainerConfig
from medtune.training import limits
from medtune.training.limits import training_problems

BUILDERS = "medtune.training.strategies"
ZERO = {"_target_": f"{BUILDERS}.zero", "stage": 3}
FSDP = {"_target_": f"{BUILDERS}.fsdp"}
GPU = TrainerConfig(accelerator="cuda")
CPU = TrainerConfig(accelerator="cpu")
HALF = TrainerConfig(accelerator="cuda", precision="16-mixed")
COMPILED = TrainerConfig(accelerator="cuda", compile=True)


def configured(**sections) -> Config:
    return Config(**{"trainer": GPU, **sections})


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        pytest.param(
            configured(optim=OptimConfig(name="paged_adamw_8bit"), trainer=CPU),
            "optim=paged_adamw_8bit moves its state between GPU and main memory, and this run is on a CPU; "
            "set optim=adamw_8bit",
            id="paged_on_a_cpu",
        ),
        pytest.param(
            configured(optim=OptimConfig(name="adafactor"), strategy=ZERO),
            "optim=adafactor with strategy=zero: it reads the rows and columns of whole matrices, and ZeRO "
            "joins all weights into one vector; set optim=adamw, or strategy=ddp",
            id="adafactor_under_zero",
        ),
        pytest.param(
            configured(optim=OptimConfig(name="lion_8bit"), strategy=FSDP),
            "optim=lion_8bit with strategy=fsdp: bitsandbytes' kernels do not take torch's distributed "
            "tensors; set optim=adamw, or strategy=ddp",
            id="bitsandbytes_under_fsdp",
        ),
        pytest.param(
            configured(optim=OptimConfig(name="lion"), strategy={**ZERO, "offload_optimizer": True}),
            "optim=lion with strategy.offload_optimizer=true: bitsandbytes would update on the GPU what lies "
            "in main memory; set optim=adamw",
            id="bitsandbytes_offloaded",
        ),
        pytest.param(
            configured(optim=OptimConfig(lora_plus_ratio=16.0)),
            "optim.lora_plus_ratio: adapter=none has none of LoRA's B matrices; leave it out",
            id="lora_plus_without_lora",
        ),
        pytest.param(
            configured(trainer=HALF, strategy=FSDP),
            "trainer.precision=16-mixed: FSDP2 scales no losses here; set trainer.precision=bf16-mixed",
            id="float16_under_fsdp",
        ),
        pytest.param(
            configured(trainer=HALF, model=ModelConfig(model_type="baichuan")),
            "trainer.precision=16-mixed with model_type=baichuan: its activations pass float16's 65,504, and "
            "the loss turns to 0 or nan (LLaMA-Factory#910); set trainer.precision=bf16-mixed",
            id="a_family_that_overflows",
        ),
        pytest.param(
            configured(trainer=COMPILED, data=DataConfig(packing="none")),
            "trainer.compile=true with data.packing=none: rows that are padded to one shape would be mostly "
            "padding; set data.packing=bfd, or trainer.compile=false",
            id="compiled_without_packing",
        ),
        pytest.param(
            configured(trainer=COMPILED, strategy=ZERO),
            "trainer.compile=true with strategy=zero: DeepSpeed gathers weights in hooks that a compiled "
            "layer does not run; set strategy=fsdp or ddp, or trainer.compile=false",
            id="compiled_under_zero",
        ),
    ],
)
def test_problems(config, problem):
    assert list(training_problems(config)) == [problem]


@pytest.mark.parametrize(
    "config",
    [
        configured(optim=OptimConfig(name="lion"), strategy=ZERO),
        configured(optim=OptimConfig(name="paged_adamw")),
        configured(optim=OptimConfig(lora_plus_ratio=16.0), adapter=AdapterConfig(name="lora")),
        configured(trainer=HALF, strategy=ZERO, model=ModelConfig(model_type="llama")),
        configured(trainer=COMPILED, strategy=FSDP),
        configured(task="generate", trainer=HALF, strategy=FSDP),
    ],
)
def test_what_works_is_not_refused(config):
    assert list(training_problems(config)) == []


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(limits.PACKAGES, "galore", "galore_torch_that_nobody_has")
    assert list(training_problems(configured(optim=OptimConfig(name="galore")))) == [
        "optim=galore needs the package galore-torch-that-nobody-has, which is not installed: "
        "pip install 'medtune[optimizers]', or set optim=adamw"
    ]


def test_a_cpu_without_a_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr(limits, "COMPILERS", ("no_such_compiler",))
    config = configured(trainer=TrainerConfig(accelerator="cpu", compile=True))
    assert list(training_problems(config)) == [
        "trainer.compile=true on a CPU needs a C++ compiler (g++); set trainer.compile=false"
    ]


def test_asking_imports_nothing_heavy():
    code = "import sys, medtune.training.limits; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
