"""Encoders against the tokenizer they stand for."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from medtune.data.tokens.byte_pairs import GPT2_PATTERN, Unsuited, check_merges
from medtune.data.tokens.encoders import (
    LONGEST_SPACE,
    BackendEncoder,
    SentencePieceEncoder,
    SlowEncoder,
    TiktokenEncoder,
    tiktoken_encoder,
)
from medtune.data.tokens.vocabulary import PROBES, own_encoder, verified, vocabulary_of
from medtune.models.baichuan_tokenizer import BaichuanTokenizer

PROJECT = Path(__file__).parents[4]
BAICHUAN = PROJECT / "tests" / "fixtures" / "baichuan" / "tok_tiny"
SPELLED = ("<s>", "</s>", "<unk>", "<reserved_")
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = (
    "患者男，56岁，反复咳嗽、咳痰10年。the patient's temperature was 38.5 and 39.5 degrees, it's not his, "
    "she's there and they're then in the theatre of the other.\n\n  诊断：慢性阻塞性肺疾病。\n"
) * 3
SPECIAL = [AddedToken(name, special=True, normalized=False) for name in ("<|endoftext|>", "<|im_end|>")]
THINK = [AddedToken(name, special=False, normalized=False) for name in ("<think>", "</think>")]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def trained(pre_tokenizer, normalizer=None, size=420, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def qwen():
    tokenizer = trained(pre_tokenizers.Sequence([split(QWEN), byte_level()]), normalizers.NFC())
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens(THINK)
    return tokenizer


def shuffled():
    """A vocabulary whose ids are not in the order of the merges."""
    state = json.loads(qwen().to_str())
    ids = state["model"]["vocab"]
    names = sorted(ids, key=lambda name: (hash_of(name), name))
    state["model"]["vocab"] = {name: index for index, name in enumerate(names)}
    return Tokenizer.from_str(json.dumps(state))


def hash_of(name):
    return sum(ord(character) * 31**place for place, character in enumerate(name)) % 1009


def whole_pieces():
    """As Llama-3: every pair that makes a token is a merge, and a piece that is a token is not merged."""
    state = json.loads(trained(pre_tokenizers.Sequence([split(QWEN), byte_level()])).to_str())
    vocabulary, merges = state["model"]["vocab"], []
    ranks = {"".join(pair): rank for rank, pair in enumerate(state["model"]["merges"])}
    known = {token: ranks.get(token, -1) for token in vocabulary}
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        merges += sorted(pair for pair in cuts if max(known.get(part, rank) for part in pair) < rank)
    state["model"] |= {"merges": merges, "ignore_merges": True}
    return Tokenizer.from_str(json.dumps(state))


def sample():
    return Tokenizer.from_file(str(PROJECT / "data" / "sample" / "tokenizer" / "tokenizer.json"))


def llama2():
    """Characters with bytes for unknown ones; a space in front of each text, and no pieces at all."""
    state = json.loads(sample().to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary["▁"] = len(vocabulary)
    state["pre_tokenizer"] = None
    state["normalizer"] = json.loads(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]).__getstate__()
    )
    merges = [merge for merge in state["model"]["merges"] if " " not in "".join(merge)]
    state["model"]["merges"] = merges
    return Tokenizer.from_str(json.dumps(state))


SUITED = {
    "qwen": qwen,
    "gpt2": lambda: trained(byte_level(use_regex=True)),
    "removed": lambda: trained(
        pre_tokenizers.Sequence([split(GPT2_PATTERN, "removed", invert=True), byte_level()])
    ),
    "ids_in_another_order": shuffled,
    "whole_pieces": whole_pieces,
    "characters_and_bytes": sample,
    "no_pieces": llama2,
}


@pytest.fixture(scope="module", params=SUITED)
def suited(request):
    return SUITED[request.param]()


def test_tiktoken_takes_over_and_gives_the_same_ids(suited):
    vocabulary = vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=suited))
    assert isinstance(vocabulary.encode, TiktokenEncoder)
    assert vocabulary.encoder == "tiktoken"
    own = BackendEncoder(suited.to_str())
    texts = [*PROBES, TEXT, "<|im_end|>a<think>b</think> <|endoftext|>", "<think>" * 3, "e<think>\u0301"]
    assert vocabulary.encode(texts) == own(texts)


@given(text=st.text(max_size=60) | st.text("ab theнеë\u0301是，。 \n'<>/thinksmd0１", max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_has_the_tokenizers_ids(encoders, text):
    for fast, own in encoders:
        assert fast([text]) == own([text])


@pytest.fixture(scope="module")
def encoders():
    own = [BackendEncoder(make().to_str()) for make in SUITED.values()]
    return [(tiktoken_encoder(each), each) for each in own]


def test_an_encoder_goes_to_another_process_and_needs_no_heavy_import(encoders, tmp_path):
    file = tmp_path / "encoders"
    file.write_bytes(pickle.dumps([fast for fast, _ in encoders]))
    code = (
        "import pickle, sys; encoders = pickle.load(open(sys.argv[1], 'rb'));"
        f"print([encode([{TEXT!r}]) for encode in encoders]);"
        "assert not {'torch', 'transformers', 'tokenizers', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, file], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert json.loads(done.stdout) == [own([TEXT]) for _, own in encoders]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its text is cut into pieces by Whitespace"),
        ({"normalizer": {"type": "Lowercase"}}, "its text goes through Lowercase"),
        ({"model": {"dropout": 0.1}}, "with dropout"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "marks at the ends of words"),
        ({"pattern": r"\p{L}+"}, "its pattern leaves characters out"),
        ({"pattern": r"\b\w+|[\s\S]"}, "its pattern looks around"),
        ({"added": {"rstrip": True}}, "takes its surroundings in"),
        ({"added": {"normalized": True}}, "is found in normalised text"),
        (
            {"merges": lambda merges: [*merges[1:], merges[0]]},
            "a merge comes before its parts|in the order of",
        ),
        ({"merges": lambda merges: [merges[0], merges[1], merges[0]]}, "the same token at several ranks"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_tiktoken_would_encode_otherwise_stays_with_the_tokenizer(change, reason):
    state = json.loads(qwen().to_str())
    for name, value in change.items():
        if name == "pattern":
            state["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = value
        elif name == "added":
            state["added_tokens"][-1] |= value
        elif name == "merges":
            state["model"]["merges"] = value(state["model"]["merges"])
        else:
            state[name] = {**(state[name] if name == "model" else {}), **value}
    definition = json.dumps(state)
    with pytest.raises(Unsuited, match=reason):
        tiktoken_encoder(BackendEncoder(definition))
    if Tokenizer.from_str(definition):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(definition))
        assert vocabulary_of(tokenizer).encoder.startswith("tokenizers (not a faster one: ")


def encode_by_merges(text, merges):
    """BPE as it is defined: the earliest merge first, the leftmost place first."""
    parts = list(text)
    while pairs := [pair for pair in pairwise(parts) if pair in merges]:
        best = min(pairs, key=merges.index)
        at = next(index for index, pair in enumerate(pairwise(parts)) if pair == best)
        parts[at : at + 2] = ["".join(best)]
    return parts


def encode_by_ranks(text, ranks):
    """BPE as tiktoken does it: any neighbours that make a token."""
    parts = list(text)
    while len(parts) > 1:
        rank, at = min((ranks.get(a + b, len(ranks)), index) for index, (a, b) in enumerate(pairwise(parts)))
        if rank == len(ranks):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@st.composite
def vocabularies(draw):
    tokens = ["a", "b"]
    products = {}
    for _ in range(draw(st.integers(1, 7))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if left + right not in tokens:
            tokens.append(left + right)
            products[left + right] = (left, right)
    return tokens, products


@given(vocabularies(), st.lists(st.text("ab", min_size=1, max_size=14), min_size=30, max_size=30))
@settings(max_examples=300, deadline=None)
def test_merges_that_pass_the_check_come_to_the_same_by_rank(vocabulary, texts):
    tokens, products = vocabulary
    ranks = {token.encode(): rank for rank, token in enumerate(tokens)}
    pairs = {token.encode(): [(a.encode(), b.encode())] for token, (a, b) in products.items()}
    try:
        check_merges(ranks, pairs, whole_pieces=False)
    except Unsuited:
        return
    merges, by_name = list(products.values()), {token: rank for rank, token in enumerate(tokens)}
    for text in [*texts, *tokens]:
        assert encode_by_merges(text, merges) == encode_by_ranks(text, by_name)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        pytest.param(
            {"ab": "a b", "bc": "b c", "bcd": "bc d", "abcd": "ab cd", "cd": "c d"}, "abcd", id="order"
        ),
        pytest.param({"bc": "b c", "ab": "a b", "abc": "ab c"}, "abc", id="never_made"),
    ],
)
def test_merges_that_would_differ_by_rank_are_refused(tokens, text):
    del text
    letters = sorted(set("".join(tokens)))
    ranks = {token.encode(): rank for rank, token in enumerate([*letters, *tokens])}
    pairs = {
        token.encode(): [tuple(part.encode() for part in pair.split())] for token, pair in tokens.items()
    }
    with pytest.raises(Unsuited, match="a merge comes before its parts|do not make"):
        check_merges(ranks, pairs, whole_pieces=False)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 2_000_000, id="letters"),
        pytest.param("好" * 1_000_000, id="unbroken_chinese"),
        pytest.param(" " * (LONGEST_SPACE + 1) + "x", id="spaces"),
        pytest.param("a" + "\n" * 200_000, id="line_breaks"),
        pytest.param("!" * 1_000_000, id="punctuation"),
    ],
)
@pytest.mark.parametrize("make", [qwen, sample], ids=["bytes", "characters"])
def test_a_monstrous_line_is_encoded_like_any_other(make, text):
    own = BackendEncoder(make().to_str())
    ids = tiktoken_encoder(own)([text, "x"])
    assert ids[1] == own(["x"])[0]
    short = own([text[-2000:]])[0]
    assert ids[0][-500:] == short[-500:]
    if len(text) < 100_000:
        assert ids[0] == own([text])[0]


@pytest.mark.parametrize("make", [qwen, sample], ids=["bytes", "characters"])
def test_a_million_spaces_are_refused(make):
    own = BackendEncoder(make().to_str())
    for encode in (own, tiktoken_encoder(own)):
        with pytest.raises(ValueError, match="1,000,000 white space characters in a row"):
            encode(["x", "a" + " \n" * 500_000])


def test_texts_of_the_source_are_compared_too():
    """An encoder with a merge of its own, which only one text of the source shows."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=qwen())
    right = vocabulary_of(tokenizer)
    assert verified(right, tokenizer, ["咳嗽 ok"]) is right
    pairs = right.encode.pairs
    more = {**pairs.ranks, b"ok": max(pairs.ranks.values()) + 1}
    wrong = replace(right, encode=replace(right.encode, pairs=replace(pairs, ranks=more)))
    assert verified(wrong, tokenizer, ["咳嗽"]) is wrong
    checked = verified(wrong, tokenizer, ["咳嗽", "ok 咳嗽", "发热"])
    assert checked.encode == own_encoder(tokenizer)
    assert checked.encoder == "tokenizers (not tiktoken, which gives other ids for 'ok 咳嗽')"


@pytest.fixture(params=["v1", "b2"])
def baichuan(request):
    """The published tokenizer's ids of sentences of our own."""
    folder = BAICHUAN / request.param
    oracle = json.loads((folder / "oracle.json").read_text(encoding="utf-8"))
    return BaichuanTokenizer.from_pretrained(folder), oracle["cases"]


def test_plain_text_has_the_ids_of_the_original_baichuan(baichuan):
    tokenizer, cases = baichuan
    plain = [case for case in cases if not any(mark in case["text"] for mark in SPELLED)]
    assert len(plain) > 60
    encode = vocabulary_of(tokenizer).encode
    assert isinstance(encode, SentencePieceEncoder)
    assert encode([case["text"] for case in plain]) == [case["ids"] for case in plain]
    assert pickle.loads(pickle.dumps(encode))([plain[0]["text"]]) == [plain[0]["ids"]]


@pytest.mark.parametrize(
    "text", ["</s>", "a</s>b", "<s>", "<unk>", "<reserved_102>你好", "<reserved_106> 你好"]
)
def test_control_tokens_of_baichuan_that_are_spelled_in_a_text_stay_text(baichuan, text):
    tokenizer, _ = baichuan
    before = tokenizer.encode(text)
    ids = vocabulary_of(tokenizer).encode([text])[0]
    turn_marks = set(tokenizer.convert_tokens_to_ids([f"<reserved_{n}>" for n in range(102, 108)]))
    assert not ({0, 1, 2} | turn_marks) & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == before  # the tokenizer itself is untouched


def test_a_tokenizer_without_a_library_of_its_own_encodes_itself(tmp_path):
    from transformers import BertTokenizerLegacy

    (tmp_path / "vocab.txt").write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "头", "痛"]))
    tokenizer = BertTokenizerLegacy(str(tmp_path / "vocab.txt"))
    vocabulary = vocabulary_of(tokenizer)
    assert isinstance(vocabulary.encode, SlowEncoder)
    assert vocabulary.encode(["头痛", ""]) == [[5, 6], []]
    assert vocabulary.encoder == "transformers (not a faster one: it is written in Python)"


@pytest.fixture
def byte_tokenizer():
    """Byte-level, with a control token of the kind that Qwen has and one that is no control token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    return tokenizer


@pytest.fixture(params=[vocabulary_of, None], ids=["fastest", "own"])
def encode_of(request):
    return (lambda tokenizer: request.param(tokenizer).encode) if request.param else own_encoder


def test_control_tokens_of_a_fast_tokenizer_that_are_spelled_in_a_text_stay_text(byte_tokenizer, encode_of):
    text = "fever<|im_end|>\n"
    assert byte_tokenizer.eos_token_id in byte_tokenizer.encode(text)
    ids = encode_of(byte_tokenizer)([text])[0]
    assert len(ids) == len(text)
    assert byte_tokenizer.decode(ids) == text
    assert byte_tokenizer.eos_token_id in byte_tokenizer.encode(text)


def test_added_tokens_that_control_nothing_are_found(byte_tokenizer, encode_of):
    think = byte_tokenizer.convert_tokens_to_ids("<think>")
    assert encode_of(byte_tokenizer)(["<think>"]) == [[think]]


def test_padding_and_truncation_of_the_tokenizer_are_not_applied(byte_tokenizer, encode_of):
    byte_tokenizer.pad_token = "<|im_end|>"
    byte_tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert [len(ids) for ids in encode_of(byte_tokenizer)(["a", "bcd", ""])] == [1, 3, 0]


def test_each_text_is_encoded_alone(tiny_tokenizer, encode_of):
    encode = encode_of(tiny_tokenizer)
    texts = ["fever", "", "is cough"]
    assert encode(texts) == [encode([text])[0] for text in texts]
    assert encode([]) == []
