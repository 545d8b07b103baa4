"""The rules between settings of generation."""

import re
from collections.abc import Iterator

from medtune.config.idle import answers_early, what_weights_hold
from medtune.config.load import show
from medtune.config.paths import is_measured
from medtune.config.schema import Config
from medtune.runtime.families import NATIVE_FAMILIES

VLLM_OWN = (
    *("model", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "dtype", "seed", "trust_remote_code"),
    "generation_config",
)
"""Arguments of vllm.LLM that other settings decide, or that no setting may."""
SHARE = re.compile(r"([1-9][0-9]*)/([1-9][0-9]*)")


def answers(config: Config) -> bool:
    """Whether this run answers prompts with the settings of ``generate``."""
    if config.task == "train":
        return answers_early(config) or (config.eval.after_fit is not False and bool(config.data.eval_splits))
    if config.task == "generate":
        return config.generate.merge_shards is None
    return config.task == "evaluate" and config.evaluate.predictions is None and not is_measured(config)


def shard_problems(config: Config) -> Iterator[str]:
    """Shares that are none, or whose parts would lie nowhere in common."""
    generate = config.generate
    if config.task != "generate":
        return
    if generate.shard is not None:
        found = SHARE.fullmatch(generate.shard)
        if found is None or int(found[1]) > int(found[2]):
            yield f"generate.shard={generate.shard} must be a share, such as 1/8 to 8/8 of eight processes"
    for key in ("shard", "merge_shards"):
        value = getattr(generate, key)
        if value is not None and generate.output is None:
            yield (
                f"generate.{key}={value} needs generate.output=FILE, the same for all shares, whose parts "
                "lie beside it"
            )
    if generate.shard is not None and generate.merge_shards is not None:
        yield (
            f"generate.shard={generate.shard} answers, and generate.merge_shards={generate.merge_shards} "
            "only merges; set one of them"
        )


def decoding_problems(config: Config) -> Iterator[str]:
    """Ways to draw answers that exclude each other."""
    generate = config.generate
    if not answers(config):
        return
    beams = f"generate.num_beams={generate.num_beams}"
    if generate.num_beams > 1 and generate.temperature > 0:
        yield (
            f"{beams} with generate.temperature={show(generate.temperature)}: a beam search draws nothing at "
            "random; set generate.temperature=0 or generate.num_beams=1"
        )
    penalises = generate.repetition_penalty != 1
    if generate.num_beams > 1 and penalises and config.adapter.name == "prompt_tuning":
        yield (
            f"{beams} with generate.repetition_penalty={show(generate.repetition_penalty)} and a trained "
            "prompt: transformers' penalty knows no virtual tokens; set one of the two to 1"
        )
    for stop in generate.stop:
        if isinstance(stop, bool) or not isinstance(stop, str | int) or stop == "":
            yield f"generate.stop={show(generate.stop)}: {stop!r} is no control token's name or id"
        elif isinstance(stop, int) and stop < 0:
            yield f"generate.stop={show(generate.stop)}: there is no id {stop}"


def engine_problems(config: Config) -> Iterator[str]:
    """What an engine cannot do, or not with this model or machine."""
    engine = config.generate.engine
    if engine == "transformers" or not answers(config):
        return
    start = f"generate.engine={engine}"
    if config.task == "train":
        yield (
            f"{start} cannot answer in a training run: set generate.engine=transformers here, and score "
            f"again with task=evaluate weights=RUN_DIR {start}"
        )
        return
    for key, off in (("choices", False), ("num_beams", 1)):
        value = getattr(config.generate, key)
        if value != off:
            yield f"{start} knows no generate.{key}={show(value)}; set generate.engine=transformers"
    if config.task == "evaluate" and config.evaluate.exam == "likelihood":
        yield f"{start} gives no likelihoods for evaluate.exam=likelihood; set generate.engine=transformers"
    if config.trainer.accelerator == "cpu":
        yield f"{start} needs a GPU; set generate.engine=transformers"
    yield from (continuous_problems if engine == "continuous" else vllm_problems)(config)


def continuous_problems(config: Config) -> Iterator[str]:
    """Networks whose attention cannot read a cache of pages."""
    penalty = config.generate.repetition_penalty
    if penalty != 1:
        yield (
            f"generate.engine=continuous would drop generate.repetition_penalty={show(penalty)}, which "
            "transformers does not have there; set generate.engine=transformers"
        )
    family = config.model.model_type
    if family in NATIVE_FAMILIES:
        yield (
            f"generate.engine=continuous with model_type={family}: its network here has its own attention, "
            "which reads no cache of pages; set generate.engine=transformers"
        )
    if config.adapter.name == "prompt_tuning":
        yield (
            "generate.engine=continuous with adapter=prompt_tuning: transformers counts virtual tokens as "
            "words; set generate.engine=transformers"
        )


def vllm_problems(config: Config) -> Iterator[str]:
    """What vLLM does not load, and arguments that are not the user's."""
    start, weights = "generate.engine=vllm", config.weights
    if what_weights_hold(config) == "adapter":
        yield (
            f"{start} loads whole models, and weights={weights} is an adapter: merge it first with "
            f"'python -m medtune task=export weights={weights} export.output=FOLDER', and set weights=FOLDER"
        )
    elif weights is None and config.model.init == "random":
        yield f"{start} loads models from files, and model.init=random has none; set weights=FOLDER"
    if config.model.model_type == "baichuan":
        yield (
            f"{start} with model_type=baichuan: vLLM has not had this family since 0.23; set "
            "generate.engine=transformers"
        )
    if config.quantization.name != "none":
        yield (
            f"{start} with quantization={config.quantization.name}: vLLM loads weights as their files have "
            "them; set quantization=none"
        )
    if (config.trainer.devices or 1) > 1:
        yield (
            f"{start} with trainer.devices={config.trainer.devices}: it divides a model itself; set "
            "trainer.devices=1 generate.vllm.tensor_parallel_size=N, or run shares with generate.shard=i/n"
        )
    for name in VLLM_OWN:
        if name in config.generate.vllm:
            yield f"generate.vllm.{name} is not yours to set: medtune decides it; take it out"


GENERATION_RULES = (shard_problems, decoding_problems, engine_problems)
