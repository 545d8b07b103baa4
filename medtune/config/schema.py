"""Every setting of medtune: one dataclass per config group, one docstring per key.

The launcher gives these classes to Hydra as the schema; the worker reads ``config.yaml`` back into
them. This module imports nothing of ours and nothing heavy, so that everything may import it.

A key with a fixed set of values lists them in its ``choices`` metadata (see :func:`choice`);
OmegaConf 2.3 cannot hold ``Literal`` types. ``None`` always means "derived", and the docstring says
from what.
"""

from dataclasses import dataclass, field
from typing import Any


def choice(default: str, *options: str) -> Any:
    """A string key that takes one of ``options``; ``medtune.config.checks`` enforces it."""
    return field(default=default, metadata={"choices": (default, *options)})


TASKS = ("train", "prepare", "generate", "evaluate", "export", "chat")


@dataclass
class ModelConfig:
    """Which network, where its weights lie, and how they are loaded."""

    name: str = "local"
    """Short name, used in run names and tables."""
    path: str | None = None
    """Folder with a transformers model, or its hub id. Not needed with ``model.init=random``."""
    revision: str | None = None
    """Commit, tag or branch of the hub id."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer. null: the same as ``model.path``."""
    init: str = choice("pretrained", "random")
    """``pretrained`` loads the weights of ``model.path``; ``random`` builds the architecture from its
    configuration alone and initialises it as transformers does, from ``seed``."""
    model_type: str | None = None
    """transformers' name of the architecture (llama, baichuan, qwen2, bloom, ...). null: read from
    ``model.path``. Needed with ``model.init=random`` when there is no ``model.path``."""
    dtype: str = choice("auto", "float32", "bfloat16", "float16")
    """Type of the loaded weights. ``auto``: bfloat16 with ``trainer.precision=bf16-true``, else float32."""
    attention: str = choice("sdpa", "eager")
    """Attention implementation, as transformers names them."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass. null: on for models over one billion parameters."""
    lora_targets: list[str] | None = None
    """Modules that LoRA adapts in this family. null: every linear layer but the head."""
    vocab_size: int | None = None
    """Rows of the embedding. null: from ``model.path``, or the tokenizer's size with random weights."""
    hidden_size: int | None = None
    """As in the model's ``config.json``; so are the keys below. null: from ``model.path``, else the
    family's own default."""
    intermediate_size: int | None = None
    """Width of the feed-forward layer."""
    num_hidden_layers: int | None = None
    """Number of decoder layers."""
    num_attention_heads: int | None = None
    """Attention heads per layer."""
    num_key_value_heads: int | None = None
    """Key/value heads per layer (grouped-query attention)."""
    max_position_embeddings: int | None = None
    """Longest sequence of a rotary model. For ``model_type=baichuan`` its presence selects rotary
    positions (7B layout), its absence ALiBi (13B layout)."""
    tie_word_embeddings: bool | None = None
    """Share the embedding with the output head."""


@dataclass
class AdapterConfig:
    """Trained add-on weights."""

    name: str = choice("none", "lora")
    """``none`` trains every parameter; ``lora`` trains low-rank updates (arXiv:2106.09685)."""
    rank: int = 8
    """Rank of the LoRA update."""
    alpha: float = 16.0
    """LoRA's scale: the update is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the input of the LoRA branch."""
    target_modules: list[str] | None = None
    """Module names to adapt. null: ``model.lora_targets``, else every linear layer but the head."""


@dataclass
class QuantizationConfig:
    """How the frozen base weights are stored; needs an adapter to train."""

    name: str = choice("none", "nf4", "int8")
    """``nf4``: 4-bit NormalFloat (QLoRA, arXiv:2305.14314); ``int8``: LLM.int8 (arXiv:2208.07339)."""
    double_quant: bool = True
    """nf4: quantise the quantisation constants too."""
    compute_dtype: str = choice("auto", "float32", "bfloat16", "float16")
    """nf4: type of the products. ``auto``: bfloat16 with a bf16 precision, else float32."""


@dataclass
class ColumnsConfig:
    """Names of the columns that a format reads."""

    text: str = "text"
    """``text`` format, JSON lines: the document."""
    instruction: str = "instruct"
    """``pair`` format: the instruction."""
    query: str | None = "query"
    """``pair`` format: what the instruction is about; joined to it with a line break when not empty.
    null: there is no such column."""
    response: str = "answer"
    """``pair`` format: the response."""


@dataclass
class DataConfig:
    """Which examples, and how they become rows."""

    name: str = "local"
    """Short name, used in run names and reports."""
    dir: str | None = None
    """Folder of the files in ``data.splits``."""
    origin: str = ""
    """Where the data can be had; shown when ``data.dir`` is not there."""
    format: str = choice("promptcblue", "pair", "text")
    """``promptcblue``: input/target records; ``pair``: ``data.columns`` of any JSON lines;
    ``text``: a document per line (.txt) or per record (.jsonl, ``data.columns.text``)."""
    splits: dict[str, str] = field(default_factory=dict)
    """Split name to file name in ``data.dir``. ``train`` is learned, ``validation`` watched."""
    eval_splits: list[str] = field(default_factory=list)
    """Splits that are generated and scored after training."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Column names of the ``pair`` and ``text`` formats."""
    sequence_length: int = 2048
    """Most tokens in a row."""
    packing: str = choice("bfd", "concat", "none")
    """``bfd``: best-fit decreasing, no example is split; ``concat``: joined in order and cut at
    ``data.sequence_length``; ``none``: an example per row. Packed documents never see each other."""
    overlong: str = choice("error", "drop", "truncate", "split")
    """What happens to an example longer than ``data.sequence_length``: ``error`` stops and says how many
    there are; ``drop`` leaves it out; ``truncate`` cuts the prompt from the left and keeps the response;
    ``split`` cuts a text into several (objective=pretrain). Always counted in data_report.json."""
    micro_batch_size: int | None = 1
    """Rows in one forward and backward pass on one device. null: the device's share of
    ``data.global_batch_size``, so that there is no accumulation."""
    global_batch_size: int = 8
    """Rows per optimizer step over all devices; gradient accumulation follows from it."""
    max_examples: int | None = None
    """Use only the first examples of each split. null: all."""
    num_workers: int = 0
    """Processes that collate batches. 0: the training process itself, which is enough for packed rows."""
    cache_dir: str | None = None
    """Where tokenised data is kept. null: data/cache in the project folder."""


@dataclass
class TemplateConfig:
    """The text around a prompt and its response. Control tokens are added as ids, never as text."""

    name: str = "plain"
    """Short name, used in reports."""
    prompt: str = "{prompt}"
    """Text before the response; ``{prompt}`` stands for the example's own."""
    separator: str = "\n\n"
    """Text between a response and the next turn's prompt, in a conversation."""
    bos: bool = False
    """Begin with the tokenizer's BOS id."""
    eos: bool = True
    """End each response with the tokenizer's EOS id, so that the model learns to stop."""


@dataclass
class OptimConfig:
    """The optimizer."""

    name: str = choice("adamw", "sgd")
    """``adamw``: fused where torch has it; ``sgd``: plain gradient descent, for parity checks."""
    lr: float = 2e-5
    """Peak learning rate."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """AdamW's decay rates of the first and second moment."""
    eps: float = 1e-8
    """AdamW's floor under the second moment's root."""
    weight_decay: float = 0.0
    """Decoupled weight decay; never on norms and biases."""


@dataclass
class ScheduleConfig:
    """Learning rate over the steps."""

    name: str = choice("cosine", "linear", "constant")
    """Shape after the warm-up."""
    warmup_ratio: float = 0.03
    """Share of all steps over which the learning rate rises from 0."""
    warmup_steps: int | None = None
    """Warm-up in steps. null: from ``schedule.warmup_ratio``."""
    min_lr_ratio: float = 0.0
    """Last learning rate as a share of the peak (cosine and linear)."""


@dataclass
class TrainerConfig:
    """Devices, precision, duration and rhythm of the fit."""

    accelerator: str = choice("auto", "cpu", "cuda")
    """Kind of device. ``auto``: cuda when the machine has one."""
    devices: int | None = None
    """Processes on this machine, one per device. null: every visible GPU, or one CPU process."""
    num_nodes: int = 1
    """Machines. More than one needs a launcher for a cluster."""
    precision: str = choice("32-true", "bf16-mixed", "bf16-true")
    """Number format of weights and products, as Lightning names them. ``trainer=default`` sets bf16-mixed,
    the tiny models 32-true."""
    max_steps: int | None = None
    """Optimizer steps. null: from ``trainer.max_epochs``."""
    max_epochs: float | None = None
    """Passes over the training rows. null: one, unless ``trainer.max_steps`` is set."""
    gradient_clip_norm: float | None = 1.0
    """Largest global norm of the gradient. null: no clipping."""
    log_every_n_steps: int = 10
    """Steps between two lines of metrics.jsonl."""
    val_every_n_steps: int | None = None
    """Steps between two validations, beside the one at the end. null: an epoch's, or a tenth of all steps
    where epochs are shorter."""
    val_max_rows: int | None = 512
    """Most rows of the validation split that one validation reads. null: all."""
    progress: str = choice("auto", "bar", "lines", "none")
    """``auto``: a bar on a terminal, plain lines elsewhere."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further arguments of lightning.pytorch.Trainer, by their own names."""


@dataclass
class CheckpointConfig:
    """When the state of training is written to ``RUN_DIR/checkpoints``."""

    every_n_steps: int | None = None
    """Steps between two checkpoints. null: one at the end, and one when the run is interrupted."""
    keep_last: int = 1
    """Newest checkpoints that are kept."""


@dataclass
class EvalConfig:
    """Generation and scoring that belong to a training run."""

    after_fit: bool = True
    """Generate and score ``data.eval_splits`` when training has ended."""
    limit: int | None = None
    """Most examples per split. null: all."""
    trivial: bool = True
    """Score rules without learning (majority, constant, random candidate) as a row of the table."""
    untrained: bool | None = None
    """Score the model before training as a row of the table. null: only with ``model.init=random``."""


@dataclass
class GenerateConfig:
    """How text is produced, and from what."""

    split: str | None = None
    """Split of ``data`` whose prompts are answered. null: the first of ``data.eval_splits``."""
    input: str | None = None
    """File of prompts instead of a split: .txt (one a line) or JSON lines in ``data.format``."""
    output: str | None = None
    """Predictions file. null: ``RUN_DIR/predictions/<split>.jsonl``."""
    max_new_tokens: int = 256
    """Most tokens of an answer."""
    batch_tokens: int = 16384
    """Tokens (prompt and room for the answer, padding included) in one batch."""
    temperature: float = 0.0
    """0 is greedy; above, sampling from the softmax at this temperature."""
    top_p: float = 1.0
    """Sampling: smallest set of tokens with this probability mass."""
    top_k: int = 0
    """Sampling: only the k likeliest tokens. 0: all."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that occurred before (arXiv:1909.05858). 1: off."""


@dataclass
class EvaluateConfig:
    """What is scored."""

    predictions: str | None = None
    """Predictions file (JSON lines with ``target``). null: generate from ``weights`` first."""
    references: str | None = None
    """File with the gold records. null: ``generate.split`` of ``data``."""
    protocol: str = choice("ccks2023", "chip2023")
    """PromptCBLUE's rules: CCKS-2023 (16 tasks) or CHIP-2023 (18 tasks)."""


@dataclass
class ExportConfig:
    """The Hugging Face folder that ``task=export`` writes."""

    output: str | None = None
    """Folder to write. null: ``RUN_DIR/model``."""
    merge: bool = True
    """Merge an adapter into its base; false writes the adapter folder."""
    dtype: str = choice("auto", "float32", "bfloat16", "float16")
    """Type of the written weights. ``auto``: that of the trained weights."""


@dataclass
class LauncherConfig:
    """Who starts the worker."""

    name: str = choice("local")
    """``local``: this machine, one process or torchrun with one per device."""
    master_port: int | None = None
    """Port of the ranks' rendezvous. null: a free one."""


@dataclass
class Config:
    """The whole of a run."""

    name: str = "medtune"
    """Name of the run; its folder is ``outputs/<name>/<id>``."""
    group: str | None = None
    """Runs that belong together (a sweep, an ablation), for the loggers."""
    tags: list[str] = field(default_factory=list)
    """Words to find the run by, for the loggers."""
    run_dir: str | None = None
    """Run folder. null: ``outputs/<name>/<id>``."""
    seed: int = 42
    """Seed of initialisation, order, dropout and sampling."""
    task: str = choice(*TASKS)
    """The verb: what the run does."""
    objective: str = choice("sft", "pretrain")
    """What is learned: the responses, or every token."""
    weights: str | None = None
    """What generate, evaluate, export and chat work on: a run folder, a checkpoint in one, or an exported
    model or adapter folder. null: ``model`` as configured."""
    resume: str = "never"
    """``never``; ``auto``: the newest whole checkpoint of ``run_dir``, if any; or a checkpoint's path."""
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    data: DataConfig = field(default_factory=DataConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    strategy: dict[str, Any] = field(default_factory=dict)
    """Open node: ``_target_`` names a builder in medtune.training.strategies, the rest are its arguments.
    Empty: one device, or DDP over several."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: dict[str, Any] = field(default_factory=dict)
    """Open nodes, one per logger beside metrics.jsonl: ``_target_`` and its arguments."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Open nodes, one per further Lightning callback: ``_target_`` and its arguments."""
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
