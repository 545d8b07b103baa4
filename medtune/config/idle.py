"""Which keys each task reads, and when a key that it reads means nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medtune.config.columns import FORMAT_COLUMNS
from medtune.config.paths import is_measured
from medtune.config.schema import FOUR_BITS, GPU_ATTENTION, Config

MODEL = ("model", "adapter", "quantization", "weights")
TEXT = ("data", "template")
DECODING = (
    "generate.max_new_tokens",
    "generate.temperature",
    "generate.top_p",
    "generate.top_k",
    "generate.repetition_penalty",
    "generate.stop",
)
SAMPLING = (*DECODING, "generate.batch_tokens")
BEAMS = ("generate.num_beams", "generate.length_penalty")
ANSWERS = (*SAMPLING, *BEAMS, "generate.choices", "generate.overlong", "generate.engine", "generate.vllm")
SCORING = ("evaluate.protocol", "evaluate.worst_rows")
DEVICES = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.precision",
)
# Keys of ``data`` by which rows become batches, and by which examples become rows; text that is generated
# from has neither.
BATCHES = ("data.micro_batch_size", "data.global_batch_size", "data.global_batch_tokens", "data.num_workers")
ROWS = (
    *(
        *BATCHES,
        "data.sequence_length",
        "data.packing",
        "data.pack_groups",
        "data.overlong",
        "data.cache_dir",
    ),
    *("data.prepare_workers", "data.learn", "data.learn_thinking", "data.filter", "data.max_tokens"),
    *("data.on_error", "data.validation_size"),
    *("data.dedup", "data.dedup_threshold", "data.contamination", "data.mix_by", "data.mix_temperature"),
    *("data.mix_stop",),
)
EXAMS = ("evaluate.exam", "evaluate.shots", "evaluate.shots_split")
# Keys that describe one data set, and therefore nothing in a mix.
OF_ONE_SOURCE = (
    *("data.dir", "data.origin", "data.hub", "data.subset", "data.revision", "data.folder", "data.streaming"),
    *("data.dataset", "data.sha1", "data.splits", "data.columns", "data.roles", "data.objective"),
    *("data.weight", "data.max_passes"),
)
# Which formats read a column.
COLUMN_READERS = {
    column: tuple(name for name, columns in FORMAT_COLUMNS.items() if column in columns)
    for column in dict.fromkeys(column for columns in FORMAT_COLUMNS.values() for column in columns)
}
# Keys of a template about conversations; documents have ``start`` and ``text``.
PIECES = tuple(
    f"template.{name}"
    for name in ("system", "default_system", "first_prompt", "prompt", "response", "separator", "end")
)

# What each task reads, beside the keys that every run has. A section stands for all of its keys.
READ_BY_TASK = {
    "train": (
        *("objective", "resume", "resume_allow", "model", "adapter", "quantization", *TEXT, "optim"),
        *("schedule", "loss", "strategy"),
        *("trainer", "logger", "callbacks", "launcher", "checkpoint", "eval", *ANSWERS, *SCORING, *EXAMS),
    ),
    "prepare": (
        *("objective", *TEXT, "model.name", "model.path", "model.revision", "model.tokenizer"),
        *("model.model_type", "model.init", "trainer.accelerator", "trainer.max_steps", "trainer.devices"),
    ),
    "generate": (*MODEL, *TEXT, *DEVICES, "launcher", "generate"),
    "evaluate": (
        *(*MODEL, *TEXT, *DEVICES, "launcher", "generate.split", *ANSWERS, "evaluate", "eval", "objective"),
    ),
    "export": (*MODEL, "template", "objective", "export", "trainer.accelerator", "trainer.precision"),
    "chat": (
        *MODEL,
        "template",
        *DECODING,
        "generate.overlong",
        "trainer.accelerator",
        "trainer.precision",
        "chat",
    ),
    "serve": (*MODEL, "template", *DECODING, "trainer.accelerator", "trainer.precision", "serve"),
}
# What a config.json says of a network.
NETWORK_KEYS = (
    *("model_type", "architecture", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "tie_word_embeddings"),
    "rope_scaling",
)
ADD_ONS = ("lora", "rslora", "dora", "pissa", "vera", "ia3")
ALWAYS_READ = ("name", "group", "tags", "run_dir", "seed", "deterministic", "task")
# Config groups whose options only set other keys.
DELTAS = ("experiment", "sweep", "debug")


@dataclass(frozen=True)
class Idle:
    """Keys that are not read while some option is chosen, and why."""

    keys: tuple[str, ...]
    when: Callable[[Config], bool]
    why: Callable[[Config], str]


def idle_column(column: str, formats: tuple[str, ...]) -> Idle:
    """The name of a column that only some formats read."""
    return Idle(
        (f"data.columns.{column}",),
        lambda config: config.data.format not in ("auto", *formats),
        lambda config: f"data.format={config.data.format}",
    )


def idle_adapter_key(key: str, readers: tuple[str, ...]) -> Idle:
    """A key that only some ways of training read."""
    return Idle(
        (f"adapter.{key}",),
        lambda config: config.adapter.name not in readers,
        lambda config: f"adapter={config.adapter.name}",
    )


IDLE = (
    *(
        idle_adapter_key(key, readers)
        for key, readers in {
            "rank": ("lora", "rslora", "dora", "pissa", "vera"),
            "alpha": ("lora", "rslora", "dora", "pissa"),
            "dropout": ("lora", "rslora", "dora", "pissa", "vera"),
            "target_modules": ADD_ONS,
            "modules_to_save": ADD_ONS,
            "init": ("pissa",),
            "num_virtual_tokens": ("prompt_tuning",),
            "first_layers": ("freeze",),
            "last_layers": ("freeze",),
            "trainable": ("freeze",),
        }.items()
    ),
    Idle(
        tuple(
            f"adapter.{name}"
            for name in (
                *("rank", "alpha", "dropout", "target_modules", "modules_to_save", "num_virtual_tokens"),
            )
        ),
        lambda config: config.adapter.start is not None,
        lambda config: "adapter.start (its own hold)",
    ),
    Idle(
        ("quantization.double_quant", "quantization.compute_dtype"),
        lambda config: config.quantization.name not in FOUR_BITS,
        lambda config: f"quantization={config.quantization.name}",
    ),
    Idle(
        ("optim.betas", "optim.eps"),
        lambda config: config.optim.name in ("sgd", "adafactor"),
        lambda config: f"optim={config.optim.name}",
    ),
    Idle(
        ("optim.eps",),
        lambda config: config.optim.name.startswith("lion"),
        lambda config: f"optim={config.optim.name}",
    ),
    Idle(
        ("optim.rank", "optim.update_interval", "optim.scale"),
        lambda config: config.optim.name not in ("galore", "apollo"),
        lambda config: f"optim={config.optim.name}",
    ),
    Idle(
        ("schedule.decay_ratio", "schedule.decay_steps", "schedule.decay_shape"),
        lambda config: config.schedule.name != "wsd",
        lambda config: f"schedule={config.schedule.name}",
    ),
    Idle(
        ("schedule.decay_ratio",),
        lambda config: config.schedule.decay_steps is not None,
        lambda config: f"schedule.decay_steps={config.schedule.decay_steps}",
    ),
    Idle(
        ("schedule.min_lr_ratio",),
        lambda config: config.schedule.name == "constant",
        lambda config: "schedule=constant",
    ),
    Idle(
        ("schedule.warmup_ratio",),
        lambda config: config.schedule.warmup_steps is not None,
        lambda config: f"schedule.warmup_steps={config.schedule.warmup_steps}",
    ),
    Idle(
        ("trainer.max_epochs",),
        lambda config: config.trainer.max_steps is not None,
        lambda config: f"trainer.max_steps={config.trainer.max_steps}",
    ),
    *(idle_column(column, formats) for column, formats in COLUMN_READERS.items()),
    Idle(
        ("data.roles",),
        lambda config: config.data.format not in ("auto", "messages", "preference"),
        lambda config: f"data.format={config.data.format}",
    ),
    Idle(OF_ONE_SOURCE, lambda config: bool(config.data.mix), lambda config: "data.mix"),
    Idle(
        ("data.format",),
        lambda config: bool(config.data.mix) and config.generate.input is None,
        lambda config: "data.mix (data.sources.NAME.format sets that of a source)",
    ),
    Idle(
        ("data.pack_groups",),
        lambda config: config.data.packing == "none",
        lambda config: "data.packing=none",
    ),
    Idle(
        ("data.pack_groups",),
        lambda config: config.data.pack_groups == "source" and not config.data.mix,
        lambda config: "one source",
    ),
    Idle(
        (
            "data.sources",
            "data.mix_by",
            "data.mix_temperature",
            "data.mix_stop",
            "data.weight",
            "data.max_passes",
        ),
        lambda config: not config.data.mix,
        lambda config: "data.mix=[]",
    ),
    Idle(
        ("data.mix_temperature", "data.mix_stop"),
        lambda config: config.data.mix_by == "epochs",
        lambda config: "data.mix_by=epochs",
    ),
    Idle(
        ("data.dedup_threshold",),
        lambda config: config.data.dedup != "near",
        lambda config: f"data.dedup={config.data.dedup}",
    ),
    Idle(
        ("data.filter.language",),
        lambda config: config.data.filter.min_language_share is None,
        lambda config: "data.filter.min_language_share=null",
    ),
    Idle(
        ("data.verify",),
        lambda config: not config.data.mix and not config.data.sha1,
        lambda config: "a data set that comes with no sha1",
    ),
    Idle(
        tuple(name for name in PIECES if name != "template.default_system"),
        lambda config: config.template.chat,
        lambda config: "template.chat=true",
    ),
    Idle(
        ("template.chat_arguments",),
        lambda config: not config.template.chat,
        lambda config: "template.chat=false",
    ),
    Idle(
        (*PIECES, "template.chat", "template.chat_arguments"),
        lambda config: config.data.format == "text" and config.task in ("train", "prepare"),
        lambda config: "data.format=text",
    ),
    Idle(
        ("generate.top_p", "generate.top_k"),
        lambda config: config.generate.temperature == 0 and config.task != "serve",  # a request may draw
        lambda config: "generate.temperature=0",
    ),
    Idle(
        ("generate.length_penalty",),
        lambda config: config.generate.num_beams == 1,
        lambda config: "generate.num_beams=1",
    ),
    Idle(
        ("generate.vllm",),
        lambda config: config.generate.engine != "vllm",
        lambda config: f"generate.engine={config.generate.engine}",
    ),
    Idle(
        ("generate.batch_tokens",),
        lambda config: config.generate.engine != "transformers",
        lambda config: f"generate.engine={config.generate.engine} (it fills its batches itself)",
    ),
    Idle(
        (*MODEL, *TEXT, *DEVICES, "generate.split", "generate.input", *ANSWERS),
        lambda config: config.task == "generate" and config.generate.merge_shards is not None,
        lambda config: "generate.merge_shards",
    ),
    Idle(
        ("generate.split",),
        lambda config: config.generate.input is not None and config.task == "generate",
        lambda config: "generate.input",
    ),
    Idle(
        ("data.dir", "data.splits", "data.eval_splits", "data.max_examples"),
        lambda config: config.generate.input is not None and config.task == "generate",
        lambda config: "generate.input",
    ),
    Idle(
        ("data.eval_splits", "evaluate.references"),
        lambda config: config.generate.split is not None and config.task in ("generate", "evaluate"),
        lambda config: f"generate.split={config.generate.split}",
    ),
    Idle(
        ("trainer.val_every_n_steps", "trainer.val_max_rows"),
        lambda config: not has_validation(config),
        lambda config: "nothing held out for validation",
    ),
    Idle(
        ("checkpoint.monitor", "checkpoint.mode"),
        lambda config: not config.checkpoint.keep_best,
        lambda config: "checkpoint.keep_best=0",
    ),
    Idle(
        ("resume_allow",),
        lambda config: config.resume == "never",
        lambda config: "resume=never",
    ),
    Idle(
        ("eval.limit", *ANSWERS, *SCORING, *EXAMS),
        lambda config: (
            config.task == "train" and config.eval.after_fit is False and not answers_early(config)
        ),
        lambda config: "eval.after_fit=false",
    ),
    Idle(
        ("generate.temperature", "generate.top_p", "generate.top_k"),
        lambda config: config.task == "train" and config.eval.after_fit is False and answers_early(config),
        lambda config: "eval.after_fit=false (answers during training are greedy)",
    ),
    Idle(
        ("eval.trivial", "eval.untrained"),
        lambda config: config.task == "train" and config.eval.after_fit is False,
        lambda config: "eval.after_fit=false",
    ),
    Idle(
        ("eval.split", "eval.tasks", "eval.limit_per_task"),
        lambda config: config.task == "train" and not answers_early(config),
        lambda config: "eval.every_n_steps=null (they choose what is answered during training)",
    ),
    Idle(
        ("eval.after_fit", "eval.trivial", "eval.untrained"),
        lambda config: config.task == "train" and not config.data.eval_splits,
        lambda config: "data.eval_splits=[]",
    ),
    Idle(
        ("data.eval_splits", "evaluate.references", "eval.split"),
        lambda config: config.task == "evaluate" and config.generate.split is not None,
        lambda config: f"generate.split={config.generate.split}",
    ),
    Idle(
        ("data.eval_splits",),
        lambda config: config.task == "evaluate" and config.eval.split is not None,
        lambda config: f"eval.split={config.eval.split}",
    ),
    Idle(
        (*ANSWERS, *SCORING, *EXAMS, "eval"),
        lambda config: config.task == "train" and not config.data.eval_splits and not answers_early(config),
        lambda config: "data.eval_splits=[]",
    ),
    Idle(
        (*MODEL, "template", *DEVICES, "launcher", *ANSWERS, "eval"),
        lambda config: config.task == "evaluate" and config.evaluate.predictions is not None,
        lambda config: "evaluate.predictions",
    ),
    Idle(
        ("launcher.master_port",),
        lambda config: (config.trainer.devices or 1) == 1,
        lambda config: "one process",
    ),
    Idle(
        ("model.gradient_checkpointing", "model.fused_kernels"),
        lambda config: config.task != "train",
        lambda config: f"task={config.task}",
    ),
    Idle(
        ("model.attention",),
        lambda config: config.task != "train" and config.model.attention in GPU_ATTENTION,
        lambda config: f"task={config.task} (answers are decoded with sdpa)",
    ),
    Idle(
        ("model.revision",),
        lambda config: config.model.path is not None and Path(config.model.path).is_dir(),
        lambda config: "a folder as model.path",
    ),
    Idle(
        ("model.architecture",),
        lambda config: config.model.init == "pretrained",
        lambda config: "model.init=pretrained (the files decide)",
    ),
    Idle(
        ("model.dtype",),
        lambda config: (
            config.task == "train"
            and (config.adapter.name == "none" or not config.trainer.precision.endswith("-mixed"))
            and (config.eval.after_fit is False or not config.data.eval_splits)  # answers are held in it
            and not answers_early(config)
        ),
        lambda config: f"adapter={config.adapter.name} trainer.precision={config.trainer.precision}",
    ),
    Idle(
        tuple(f"model.{key}" for key in NETWORK_KEYS),
        lambda config: config.task != "train" and what_weights_hold(config) == "model",
        lambda config: "weights (their files decide)",
    ),
    Idle(
        ("adapter",),
        lambda config: config.task != "train" and what_weights_hold(config) is not None,
        lambda config: "weights (their files decide)",
    ),
    Idle(
        ("model.dtype",),
        lambda config: config.task == "export",
        lambda config: "task=export (export.dtype decides)",
    ),
    Idle(
        BATCHES,
        lambda config: config.task == "prepare",
        lambda config: "task=prepare",
    ),
    Idle(
        ROWS,
        lambda config: config.task == "generate" or (config.task == "evaluate" and not is_measured(config)),
        lambda config: f"task={config.task}",
    ),
    Idle(
        ("objective",),
        lambda config: config.task == "evaluate" and not is_measured(config),
        lambda config: "evaluate.perplexity=false",
    ),
    Idle(
        (
            *(*ANSWERS, "eval", *SCORING, "evaluate.references", "data.global_batch_tokens"),
            *("data.num_workers", "data.dedup", "data.dedup_threshold", "data.contamination"),
            *("data.mix_by", "data.mix_temperature", "data.mix_stop", "data.max_tokens", *EXAMS),
        ),
        lambda config: is_measured(config),
        lambda config: "evaluate.perplexity=true",
    ),
    Idle(
        ("data.eval_splits",),
        lambda config: is_measured(config) and has_validation(config),
        lambda config: "evaluate.perplexity=true (validation is measured)",
    ),
    Idle(
        EXAMS,
        lambda config: not config.data.mix and config.data.format not in ("auto", "exam"),
        lambda config: f"data.format={config.data.format}",
    ),
    Idle(
        (*DECODING, *BEAMS, "generate.choices", "generate.overlong"),
        lambda config: (
            config.task in ("train", "evaluate")
            and config.data.format == "exam"
            and config.evaluate.exam == "likelihood"
            and not (config.task == "train" and answers_early(config))  # which are generated
        ),
        lambda config: "evaluate.exam=likelihood",
    ),
    Idle(
        ("evaluate.protocol",),
        lambda config: config.data.format == "exam" and not config.data.mix,
        lambda config: "data.format=exam",
    ),
    Idle(
        EXAMS,
        lambda config: config.task == "evaluate" and config.evaluate.predictions is not None,
        lambda config: "evaluate.predictions",
    ),
    Idle(
        ("export.llama_cpp",),
        lambda config: config.export.gguf == "none",
        lambda config: "export.gguf=none",
    ),
    Idle(
        ("eval.after_fit", "eval.every_n_steps"),
        lambda config: config.task == "evaluate",
        lambda config: "task=evaluate",
    ),
)


def answers_early(config: Config) -> bool:
    """Whether answers are generated while the model learns."""
    return config.eval.every_n_steps is not None


def what_weights_hold(config: Config) -> str | None:
    """``adapter`` or ``model``, by the files of ``weights``; None of a checkpoint, which settings rebuild."""
    for folder in (Path(config.weights), Path(config.weights) / "model") if config.weights else ():
        if (folder / "adapter_config.json").is_file():
            return "adapter"
        if (folder / "config.json").is_file():
            return "model"
    return None


def has_validation(config: Config) -> bool:
    """Whether some source has rows to validate on."""
    data = config.data
    sources = [vars(data)] if not data.mix else [dict(source) for source in data.sources.values()]
    return any(
        "validation" in (source.get("splits") or {}) or source.get("validation_size") for source in sources
    )
