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


ALL_LINEAR = "all-linear"  # every linear layer but the output head
WHOLE_MODELS = ("none", "freeze")  # adapter names whose result is a model, not an adapter
FOUR_BITS = ("nf4", "fp4")
GPU_ATTENTION = ("flex_attention", "flash_attention_2")
TASKS = ("train", "prepare", "generate", "evaluate", "export", "chat", "serve")


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
    """Folder or hub id of the tokenizer. null: the same as ``model.path``; with random weights and none of it
    on this machine, the built-in sample's."""
    init: str = choice("pretrained", "random")
    """``pretrained`` loads the weights of ``model.path``; ``random`` builds the architecture from its
    configuration alone and initialises it as transformers does, from ``seed``."""
    model_type: str | None = None
    """transformers' name of the architecture (llama, baichuan, qwen2, bloom, ...). null: read from
    ``model.path``. Needed with ``model.init=random`` when there is no ``model.path``."""
    dtype: str = choice("auto", "float32", "bfloat16", "float16")
    """Type of weights that are not trained: a model that only answers, or the base under an adapter with
    a mixed ``trainer.precision`` (the others hold everything in their own type). ``auto``: as the files
    have them. Weights that are trained are float32, or bfloat16 with bf16-true."""
    attention: str = choice("auto", "sdpa", "eager", *GPU_ATTENTION)
    """Attention implementation, as transformers names them. ``auto``: on a GPU, for packed rows or ALiBi,
    FlashAttention where the package flash_attn is installed, else FlexAttention; otherwise sdpa, or eager for
    a family without it. Answers are decoded with sdpa."""
    fused_kernels: bool | None = None
    """Liger's fused kernels (package liger_kernel) for the loss, norms, positions and feed-forward products.
    null: on a GPU where the package is installed."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass. null: on for models over one billion parameters."""
    lora_targets: list[str] | None = None
    """Modules that low-rank adapters adapt in this family. null: every linear layer but the head."""
    resize_embeddings: bool = False
    """Give the embedding rows for all tokens of a tokenizer that has more than the model; they start near the
    mean of the others and must be trained."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """What the published config.json says of the network; read with ``model.init=random`` where the files of
    ``model.path`` are not in a folder here. The keys below win."""
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
    rope_scaling: dict[str, Any] = field(default_factory=dict)
    """Stretches rotary positions beyond the model's context, as transformers names it:
    ``{rope_type: linear, factor: 2}``, or dynamic, yarn, llama3, longrope with their keys. Empty: as the
    files say."""


@dataclass
class AdapterConfig:
    """What learns: every parameter, a part of the network, or add-on weights over a frozen base."""

    name: str = choice("none", "freeze", "lora", "rslora", "dora", "pissa", "vera", "ia3", "prompt_tuning")
    """``none`` trains every parameter; ``freeze`` a part of them. Add-on weights: ``lora`` low-rank updates
    (arXiv:2106.09685); ``rslora`` with a scale for high ranks (arXiv:2312.03732); ``dora`` with a magnitude
    apart (arXiv:2402.09353); ``pissa`` from the principal components (arXiv:2404.02948); ``vera`` two vectors
    around shared random matrices (arXiv:2310.11454); ``ia3`` a factor per channel (arXiv:2205.05638);
    ``prompt_tuning`` vectors in front of every document (arXiv:2104.08691)."""
    rank: int = 8
    """Rank of the update."""
    alpha: float = 16.0
    """Scale: the update is multiplied by alpha / rank (rslora: alpha / sqrt(rank))."""
    dropout: float = 0.0
    """Dropout on the input of the update."""
    target_modules: Any = None
    """Names of the modules to adapt, or ``all-linear``: every linear layer but the head. null:
    ``model.lora_targets``, else all-linear; for ia3 the keys, values and second feed-forward layer."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules that are trained whole beside the update, such as embeddings, and saved with it."""
    init: str = choice("pissa", "pissa_niter_16")
    """pissa: a full singular value decomposition of each matrix, or a randomised one with 16 rounds, which
    takes seconds in place of minutes for large matrices."""
    num_virtual_tokens: int = 20
    """prompt_tuning: vectors in front of every document; rows grow by as many tokens for each of theirs."""
    first_layers: int | None = None
    """freeze: train so many decoder layers next to the embedding."""
    last_layers: int | None = None
    """freeze: train so many decoder layers next to the head."""
    trainable: list[str] = field(default_factory=list)
    """freeze: also train the parameters with these names; ``*`` stands for any text (``*norm*``)."""
    start: str | None = None
    """Adapter or run folder whose adapter is trained on; method, rank, targets are its own."""
    stack: list[str] = field(default_factory=list)
    """Adapter or run folders whose LoRA updates stay, frozen, below the new one. What is written holds all of
    them in one adapter."""
    merge: list[str] = field(default_factory=list)
    """Adapter or run folders that are folded into the base, in this order, before anything is trained."""


@dataclass
class QuantizationConfig:
    """How the frozen base weights are stored; needs an adapter to train."""

    name: str = choice("none", "nf4", "fp4", "int8")
    """``nf4``: 4-bit NormalFloat (QLoRA, arXiv:2305.14314); ``fp4``: 4-bit floating point; ``int8``: LLM.int8
    (arXiv:2208.07339)."""
    double_quant: bool = True
    """nf4, fp4: quantise the quantisation constants too."""
    compute_dtype: str = choice("auto", "float32", "bfloat16", "float16")
    """nf4, fp4: type of the products. ``auto``: as ``trainer.precision`` has them."""


@dataclass
class ColumnsConfig:
    """Names of the columns that a format reads. null: the format's own name; "": there is no such column."""

    text: str | None = None
    """``text``: the document (text)."""
    instruction: str | None = None
    """``pair`` (instruct), ``alpaca`` (instruction), ``preference`` (instruction, prompt or question): what
    is asked."""
    query: str | None = None
    """``pair`` (query) and ``alpaca``, ``preference`` (input): what the instruction is about; joined to it
    with a line break when it is not empty."""
    response: str | None = None
    """``pair`` (answer) and ``alpaca`` (output): the response."""
    system: str | None = None
    """``alpaca``, ``messages`` and ``preference`` (system): the system prompt."""
    history: str | None = None
    """``alpaca`` and ``preference`` (history): earlier turns as a list of [prompt, response] pairs."""
    messages: str | None = None
    """``messages`` (messages or conversations): the list of turns."""
    role: str | None = None
    """``messages``: who speaks, in a turn (role or from)."""
    content: str | None = None
    """``messages``: what is said, in a turn (content or value)."""
    chosen: str | None = None
    """``preference`` (chosen, or the first of two in output): the better response."""
    rejected: str | None = None
    """``preference`` (rejected, or the second of two in output): the worse response."""


@dataclass
class FilterConfig:
    """Which records are left out for what their text is; each is counted by its cause and listed."""

    min_chars: int | None = None
    """Fewest characters of a record's content: all of its turns together, without the template."""
    max_chars: int | None = None
    """Most characters of a record's content."""
    language: str = choice("zh", "en")
    """Which letters ``min_language_share`` counts: Han characters (zh) or Latin letters (en)."""
    min_language_share: float | None = None
    """Least share of the content's letters that belong to ``language``."""
    max_repeated_share: float | None = None
    """Most of the content's characters that may repeat what directly precedes them."""
    match: str | None = None
    """Regular expression that must be found in the content."""
    exclude: str | None = None
    """Regular expression that must not be found in it."""


@dataclass
class SourceConfig:
    """Where examples come from and how they are read: a data set of its own, or one of a mix."""

    name: str = "local"
    """Short name, used in run names and reports."""
    dir: str | None = None
    """Folder of the files in ``splits``."""
    origin: str = ""
    """Where the data can be had; shown when its files are not there."""
    hub: str | None = None
    """Hub id (owner/name) or a folder in the hub's layout, read by the datasets library; ``splits`` then
    name its splits. No remote code is run."""
    subset: str | None = None
    """Configuration of the hub data set. null: its only or default one."""
    folder: str | None = None
    """Folder of the hub data set that is read. null: all of it."""
    revision: str | None = None
    """Commit, tag or branch of the hub data set."""
    streaming: bool = False
    """Read the hub data set as it arrives, without a copy of it on disk; only its tokens are kept."""
    dataset: str | None = None
    """Key of the ``dataset_info.json`` (LLaMA-Factory's registry) in ``dir``; it sets the keys above and the
    format, columns and train split."""
    sha1: dict[str, str] = field(default_factory=dict)
    """SHA-1 of a split's file, as a registry gives it."""
    verify: bool = True
    """Compare files with ``sha1``; a difference is an error."""
    format: str = choice("auto", "promptcblue", "pair", "alpaca", "messages", "preference", "text", "exam")
    """``promptcblue``: input/target records; ``pair``: any column names; ``alpaca``:
    instruction/input/output/history; ``messages``: turns as OpenAI or ShareGPT spell them; ``preference``:
    a chosen and a rejected response (sft learns the chosen); ``text``: a document per line (.txt) or per
    record; ``exam``: multiple-choice questions as CMB, CMExam and C-Eval are released. ``auto``: told from
    the first record."""
    splits: dict[str, str] = field(default_factory=dict)
    """Split name to file, folder or pattern (``*.jsonl``) in ``dir``. ``train`` is learned, ``validation``
    watched. Files may be txt, json, jsonl, csv, tsv or parquet, packed with gz, xz or zst."""
    eval_splits: list[str] = field(default_factory=list)
    """Splits that are generated and scored after training; of a mix as source/split, or ``*``: those of its
    sources."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Column names."""
    roles: dict[str, str] = field(default_factory=dict)
    """``messages``: further spellings of the speakers, each as user, assistant or system:
    ``{patient: user, doctor: assistant}``."""
    learn: str = choice("all", "last")
    """Which responses of a conversation are learned by objective=sft."""
    learn_thinking: bool = True
    """Learn reasoning (``<think>...</think>``) before a response; an empty block is never learned."""
    filter: FilterConfig = field(default_factory=FilterConfig)
    """Records to leave out."""
    on_error: str = choice("raise", "skip")
    """A record that cannot be read: ``raise`` stops and names it; ``skip`` leaves it out, counted and
    listed."""
    overlong: str = choice("error", "drop", "truncate", "split")
    """What happens to an example longer than ``data.sequence_length``: ``error`` stops and says how many
    there are; ``drop`` leaves it out; ``truncate`` cuts the prompt from the left and keeps the response (of
    a text, its end); ``split`` cuts a text into several (objective=pretrain). Always counted in
    data_report.json."""
    max_examples: int | None = None
    """Use only the first examples of each split. null: all."""
    max_tokens: int | None = None
    """Use only a seeded choice of about so many tokens of the train split. null: all."""
    validation_size: float | None = None
    """Hold out a part of the train split for validation: a share (below 1) or a number of examples. Chosen
    by a hash of the prompt, so that a record stays on its side when other sources are added, and with a
    share whatever is added."""
    objective: str | None = None
    """In a mix, what is learned of this source: sft or pretrain. null: the run's objective, and pretrain for
    ``text``."""
    weight: float | None = None
    """Share in a mix, in the unit of ``data.mix_by``. null: its own size (mix_by=epochs: 1)."""
    max_passes: float | None = None
    """In a mix, most passes over this source per epoch, however large its weight. null: no limit."""


@dataclass
class DataConfig(SourceConfig):
    """Which examples, and how they become rows."""

    mix: list[str] = field(default_factory=list)
    """Sources that are mixed: options of ``conf/data``, or names whose keys are under ``data.sources``.
    Empty: this data set alone."""
    sources: dict[str, Any] = field(default_factory=dict)
    """Keys of single sources of the mix, such as ``data.sources.promptcblue.weight=2``."""
    mix_by: str = choice("tokens", "examples", "epochs")
    """Unit of the weights: shares of the tokens or of the examples of an epoch, or passes over the source."""
    mix_temperature: float = 1.0
    """Raises each share to the power 1/temperature: above 1 small sources gain. Not with mix_by=epochs."""
    mix_stop: str = choice("first", "all", "steps")
    """When an epoch of a mix ends: ``first``: when a source has been read once; ``all``: when each has,
    smaller ones repeating; ``steps``: after ``trainer.max_steps``, every source repeating as needed."""
    dedup: str = choice("none", "exact", "near")
    """Remove duplicates within and across sources: ``exact``: equal content; ``near``: also a Jaccard
    similarity of at least ``dedup_threshold``."""
    dedup_threshold: float = 0.7
    """Least Jaccard similarity of the character 5-grams of near duplicates."""
    contamination: str = choice("report", "remove")
    """Training examples that also are in a validation or evaluation split: counted, or removed too."""
    sequence_length: int = 2048
    """Most tokens in a row."""
    packing: str = choice("bfd", "concat", "none")
    """``bfd``: best-fit decreasing, no example is split; ``concat``: joined in order and cut at
    ``data.sequence_length``; ``none``: an example per row. Packed documents never see each other."""
    pack_groups: str = choice("none", "turns", "source")
    """Which examples never share a row: ``turns``: single-turn and multi-turn ones; ``source``: those of
    different sources."""
    micro_batch_size: int | None = 1
    """Rows in one forward and backward pass on one device. null: the device's share of
    ``data.global_batch_size``, so that there is no accumulation."""
    global_batch_size: int = 8
    """Rows per optimizer step over all devices; gradient accumulation follows from it."""
    global_batch_tokens: int | None = None
    """Tokens per optimizer step instead of rows: ``global_batch_size`` becomes the multiple of what the
    devices take in one pass that is nearest to it in full rows."""
    num_workers: int = 0
    """Processes that collate batches. 0: the training process itself, which is enough for packed rows."""
    prepare_workers: int | None = None
    """Processes that tokenise. null: one per core for large files, else the run's own."""
    cache_dir: str | None = None
    """Where tokenised data is kept. null: data/cache in the project folder."""


@dataclass
class TemplateConfig:
    """The text and control tokens around the turns of a conversation, as data; see docs/templates.md.

    A piece is text, in which ``{system}``, ``{prompt}``, ``{response}``, ``{text}`` and ``{round}`` (from 1)
    stand for the example's own, or a control token, which is added as its id: ``{token: <|im_start|>}``,
    ``{token: bos}``, ``{token: eos}`` or ``{id: 195}``; with ``optional: true`` it is left out where the
    tokenizer has no such token.
    """

    name: str = "plain"
    """Short name, used in reports."""
    start: list[Any] = field(default_factory=list)
    """Pieces at the start of every conversation and document."""
    system: list[Any] = field(default_factory=list)
    """Pieces of the system prompt, when there is one; empty: ``first_prompt`` holds it, or the template has
    no place for one."""
    default_system: str | None = None
    """System prompt of conversations without one of their own. null: none."""
    first_prompt: list[Any] = field(default_factory=list)
    """Pieces of the first prompt when there is a system prompt; empty: those of ``prompt``."""
    prompt: list[Any] = field(default_factory=lambda: ["{prompt}"])
    """Pieces of a prompt up to where the response begins; never learned. A control token with
    ``label: eos`` is learned as the end of the response before it."""
    response: list[Any] = field(default_factory=lambda: ["{response}", {"token": "eos"}])
    """Pieces of a response; learned."""
    separator: list[Any] = field(default_factory=list)
    """Pieces between a response and the next prompt; never learned."""
    end: list[Any] = field(default_factory=list)
    """Pieces after the last response; learned."""
    text: list[Any] = field(default_factory=lambda: ["{text}", {"token": "eos"}])
    """Pieces of a plain document (``format=text``), after ``start``."""
    chat: bool = False
    """Use the tokenizer's own chat template instead of the pieces above."""
    chat_arguments: dict[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, such as ``enable_thinking``."""
    stop: list[Any] = field(default_factory=list)
    """Further control tokens that end a generated answer."""


@dataclass
class OptimConfig:
    """The optimizer."""

    name: str = choice(
        "adamw",
        "adamw_8bit",
        "paged_adamw",
        "paged_adamw_8bit",
        "adafactor",
        "lion",
        "lion_8bit",
        "galore",
        "apollo",
        "sgd",
    )
    """``adamw``: torch's, fused; ``adamw_8bit``: bitsandbytes', its state in 8 bits (arXiv:2110.02861);
    ``paged_``: the state moves to main memory when the GPU's is full; ``adafactor``: a sum per row and column
    in place of the second moment (arXiv:1804.04235); ``lion``: the sign of one momentum (arXiv:2302.06675);
    ``galore`` (arXiv:2403.03507), ``apollo`` (arXiv:2412.05270): AdamW's state in a subspace of ``rank``;
    ``sgd``: plain gradient descent, for parity checks."""
    lr: float = 2e-5
    """Peak learning rate."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """Decay rates of the first and second moment (lion: of the update and of the momentum)."""
    eps: float = 1e-8
    """Floor under the second moment's root."""
    weight_decay: float = 0.0
    """Decoupled weight decay; never on embeddings, norms and biases."""
    layer_lr_decay: float = 1.0
    """The learning rate of each decoder layer is that of the layer above times this (arXiv:2003.10555); the
    embedding lies below all. 1: the same everywhere."""
    embedding_lr: float | None = None
    """Peak learning rate of embedding and output head, such as one for new rows. null: ``optim.lr``."""
    lora_plus_ratio: float | None = None
    """LoRA+ (arXiv:2402.12354): the B matrices learn at so many times the rate of the A matrices. null: 1."""
    rank: int = 128
    """galore, apollo: dimensions of the subspace."""
    update_interval: int = 200
    """galore, apollo: steps between two choices of the subspace."""
    scale: float = 0.25
    """galore, apollo: factor of the update of projected matrices."""


@dataclass
class ScheduleConfig:
    """Learning rate over the steps."""

    name: str = choice("cosine", "linear", "constant", "wsd")
    """Shape after the warm-up. ``wsd``: constant, then a decay over the last steps (arXiv:2404.06395)."""
    warmup_ratio: float = 0.03
    """Share of all steps over which the learning rate rises from 0."""
    warmup_steps: int | None = None
    """Warm-up in steps. null: from ``schedule.warmup_ratio``."""
    min_lr_ratio: float = 0.0
    """Last learning rate as a share of the peak."""
    decay_ratio: float = 0.1
    """wsd: share of all steps over which it decays."""
    decay_steps: int | None = None
    """wsd: decay in steps. null: from ``schedule.decay_ratio``."""
    decay_shape: str = choice("sqrt", "linear", "cosine")
    """wsd: shape of the decay; ``sqrt`` is 1 - sqrt (arXiv:2405.18392)."""


@dataclass
class LossConfig:
    """What is minimised beside the cross-entropy of the learned tokens, and noise against overfitting."""

    label_smoothing: float = 0.0
    """Share of each label's weight that goes to all words alike. ``train/loss`` stays the plain
    cross-entropy; what is minimised is logged as ``train/objective``."""
    z_loss: float = 0.0
    """Weight of the squared log of the softmax's denominator, which keeps logits small
    (arXiv:2204.02311). 1e-4 is usual; 0: off."""
    neftune_alpha: float | None = None
    """NEFTune (arXiv:2310.05914): size of the noise on the embedded tokens of the fit, by each document's
    length. 5 is usual; null: none."""


@dataclass
class TrainerConfig:
    """Devices, precision, duration and rhythm of the fit."""

    accelerator: str = choice("auto", "cpu", "cuda")
    """Kind of device. ``auto``: cuda when the machine has one."""
    devices: int | None = None
    """Processes on this machine, one per device. null: every visible GPU, or one CPU process."""
    num_nodes: int = 1
    """Machines. More than one needs a launcher for a cluster."""
    precision: str = choice("32-true", "bf16-mixed", "bf16-true", "16-mixed")
    """Number format of weights and products, as Lightning names them. ``trainer=default`` sets bf16-mixed,
    the tiny models 32-true. ``16-mixed``: float16 products with a scaled loss, for GPUs without bfloat16."""
    compile: bool = False
    """Compile the decoder layers (torch.compile): fewer, larger kernels after a wait of minutes at the start.
    Rows are padded to ``data.sequence_length``, so that all have one shape."""
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
    """Steps between two checkpoints. There is always one at the end, and one when the run is interrupted
    (Ctrl-C, SIGTERM, SIGUSR1)."""
    every_n_tokens: int | None = None
    """Training tokens, padding left out, between two checkpoints."""
    every_n_minutes: float | None = None
    """Most minutes of work that a crash can cost: time since the last checkpoint, by rank zero's clock."""
    keep_last: int = 1
    """Newest checkpoints that are kept."""
    keep_best: int = 0
    """Best checkpoints that are kept beside them. Above 0, one is written after each validation that is among
    the best so far, and ``checkpoints/best`` leads to the best."""
    monitor: str = "val/loss"
    """What the validation reports that the best are chosen by: val/loss, val/accuracy, with
    objective=pretrain val/perplexity, of a mix val/loss/SOURCE."""
    mode: str = choice("auto", "min", "max")
    """Whether less or more of ``monitor`` is better. ``auto``: less of a loss or perplexity, more
    of the rest."""
    keep_every_n_steps: int | None = None
    """Write a checkpoint every so many steps that is kept for good."""
    asynchronous: bool = False
    """Copy the state to main memory (which must have room for it) and write it while training goes on. One at
    a time; not with strategies that shard."""


@dataclass
class EvalConfig:
    """Generation and scoring that belong to a training run."""

    after_fit: bool | None = None
    """Generate and score ``data.eval_splits`` when training has ended. null: true, but for an adapter on
    random weights, which can answer nothing: such a run measures."""
    limit: int | None = None
    """Most examples per split. null: all."""
    trivial: bool = True
    """Score rules without learning (majority, constant, random candidate) as a row of the table."""
    untrained: bool | None = None
    """Score the model before training as a row of the table. null: only with ``model.init=random``."""
    every_n_steps: int | None = None
    """Also generate and score every so many steps of the training, and after the last one, greedily and on a
    choice of ``eval.split``: ``eval/score``, ``eval/TASK``, and what it cost. null: never."""
    split: str | None = None
    """Split that is answered during training, and by task=evaluate without ``generate.split``. null: the
    validation split, else the first of ``data.eval_splits`` (task=evaluate: all of these)."""
    tasks: list[str] | None = None
    """PromptCBLUE tasks that are answered during training, and by task=evaluate. null: all."""
    limit_per_task: int | None = None
    """Most examples of each task that are answered during training, and by task=evaluate; chosen by a hash of
    ``seed`` and what the example says. null: 20 during training, all for task=evaluate."""


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
    num_beams: int = 1
    """Beams of a beam search, which takes transformers' own; 1: greedy or sampled. Batches hold so many times
    fewer prompts."""
    length_penalty: float = 1.0
    """Beam search: a finished beam's log-probability is divided by its length to this power; above 1 prefers
    longer answers."""
    stop: list[Any] = field(default_factory=list)
    """Further control tokens, by name or id, that end an answer, beside the template's and the EOS:
    ``['<|im_end|>',195]``."""
    choices: bool = False
    """Rows of PromptCBLUE's classification tasks are answered with one of their ``answer_choices``, or
    非上述类型 where that may be right, exactly. The official protocol is free text."""
    overlong: str = choice("middle", "error")
    """A prompt that leaves no room for its answer in the model's context: ``middle`` cuts its text in the
    middle, and says so; ``error`` refuses the run. See docs/generation.md."""
    engine: str = choice("transformers", "continuous", "vllm")
    """``transformers``: medtune's own batches; ``continuous``: transformers' continuous batching, on a GPU;
    ``vllm``: the package vllm, on an exported model."""
    vllm: dict[str, Any] = field(default_factory=dict)
    """engine=vllm: further arguments of vllm.LLM, such as ``{gpu_memory_utilization: 0.8}``."""
    shard: str | None = None
    """``i/n``: answer every n-th row from the i-th on, into a part beside ``generate.output``; n processes,
    on one machine or many, answer all. The last to finish puts the parts together."""
    merge_shards: int | None = None
    """Answer nothing; put the parts of so many shards together into ``generate.output``."""


@dataclass
class EvaluateConfig:
    """What is scored."""

    predictions: str | None = None
    """Predictions file (JSON lines with ``target``). null: generate from ``weights`` first."""
    references: str | None = None
    """File with the gold records. null: ``generate.split`` of ``data``."""
    protocol: str = choice("ccks2023", "chip2023")
    """PromptCBLUE's rules: CCKS-2023 (16 tasks) or CHIP-2023 (18 tasks)."""
    perplexity: bool = False
    """Instead of answers: loss, perplexity and bits per character of each source of ``generate.split``. null
    there: of ``validation``, also where that is held out, else of ``data.eval_splits``."""
    exam: str = choice("generate", "likelihood")
    """How a multiple-choice exam is taken: ``generate``: letters read from the generated answer;
    ``likelihood``: the letters that the model finds likeliest."""
    shots: int = 0
    """Exam questions with their answers in front of each question, as earlier turns."""
    shots_split: str | None = None
    """Split that they come from, the first of the same kind and subject. null: ``dev``, else ``train``."""
    worst_rows: int = 20
    """Rows of each task that ``RUN_DIR/details`` shows with input, gold, prediction and what they were read
    as, the worst first. 0: none."""
    submission: bool = False
    """Write ``RUN_DIR/submission/test_predictions.zip`` as the organisers of PromptCBLUE take it; the answers
    of a test split, which cannot be scored, too."""
    against: str | None = None
    """A run folder, or a predictions file, with answers to the same records: PromptCBLUE's scores are
    compared task by task, with bootstrap intervals."""


@dataclass
class ExportConfig:
    """The Hugging Face folder that ``task=export`` writes."""

    output: str | None = None
    """Folder to write. null: ``RUN_DIR/model``."""
    merge: bool = True
    """Merge an adapter into its base; false writes the adapter folder."""
    dtype: str = choice("auto", "float32", "bfloat16", "float16")
    """Type of the written weights. ``auto``: that of the trained weights."""
    gguf: str = choice("none", "f32", "f16", "bf16", "q8_0", "auto")
    """Also write a GGUF file of this type, by llama.cpp's own converter."""
    llama_cpp: str | None = None
    """llama.cpp's folder, with ``convert_hf_to_gguf.py``. null: the environment's LLAMA_CPP."""


@dataclass
class ChatConfig:
    """The conversation of ``task=chat``."""

    multi_turn: bool = True
    """Show the model the conversation so far; false answers each prompt alone, as an instruction."""
    system: str | None = None
    """System prompt to begin with. null: the template's own, if it has one."""


@dataclass
class ServeConfig:
    """The HTTP server of ``task=serve``; see docs/serving.md."""

    host: str = "127.0.0.1"
    """Address to listen at: this machine only. Another needs ``api_key_env`` or ``allow_public=true``."""
    port: int = 8000
    """Port to listen at. 0: a free one, which is printed."""
    model_name: str | None = None
    """What clients call the model. null: ``model.name``."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key which clients must send; never the key itself.
    null: no key."""
    allow_public: bool = False
    """Listen beyond this machine without a key."""
    cors_origins: list[str] = field(default_factory=list)
    """Web pages' origins (``https://chat.example.org``, or ``*``) that may call from a browser."""
    worker_routes: bool = False
    """Also serve ``/worker_generate`` (lines of JSON) and ``/worker_get_status``, for old clients."""
    max_batch_rows: int = 64
    """Most answers that are decoded together."""
    max_batch_tokens: int = 65536
    """Most tokens of a batch: rows times the longest of them, prompt and room for its answer. One row must
    keep to it too."""
    max_queue: int = 128
    """Most answers that wait for a place in the batch; a request beyond is refused with 429."""
    max_tokens: int | None = None
    """Most tokens of an answer that a client may ask for. null: what the model's context leaves."""
    max_body_bytes: int = 1_000_000
    """Largest body of a request."""
    max_connections: int = 512
    """Most open connections."""
    request_timeout: float = 600.0
    """Seconds from a request's arrival to the end of its answer."""
    client_timeout: float = 30.0
    """Seconds for a client to send its headers, then its body, and to take what was sent."""
    shutdown_timeout: float = 10.0
    """Seconds that running answers have to end after Ctrl-C or SIGTERM, before they are cut."""


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
    deterministic: bool = False
    """Two runs with the same settings on the same machine are equal bit for bit, times aside. Slower on GPUs:
    attention=auto is then eager, and kernels without a fixed order of additions are refused."""
    task: str = choice(*TASKS)
    """The verb: what the run does."""
    objective: str = choice("sft", "pretrain")
    """What is learned: the responses, or every token."""
    weights: str | None = None
    """What generate, evaluate, export, chat and serve work on: a run folder, a checkpoint in one, or an
    exported model or adapter folder. null: ``model`` as configured."""
    resume: str = "never"
    """``never``; ``auto``: the newest whole checkpoint of ``run_dir``, if any; or a checkpoint's path."""
    resume_allow: list[str] = field(default_factory=list)
    """Keys and sections that may be other than in the checkpoint though training then does not go on as it
    began: ``[optim.lr,data]``. Keys that bear on nothing that is learned may change without it."""
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    data: DataConfig = field(default_factory=DataConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
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
    chat: ChatConfig = field(default_factory=ChatConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
