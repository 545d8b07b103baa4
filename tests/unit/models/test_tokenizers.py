import copy
import json
import pickle
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import medtune.models  # noqa: F401  (Baichuan becomes known to transformers)
from medtune.models.tokenizers import BaichuanTokenizer, encode_texts

FOLDER = Path(__file__).parents[2] / "fixtures" / "baichuan" / "tok_tiny"
SPELLED = ("<s>", "</s>", "<unk>", "<reserved_")


@pytest.fixture(params=["v1", "b2"])
def oracle(request):
    """Ids and decodings of the published class, on sentences of our own."""
    folder = FOLDER / request.param
    return folder, json.loads((folder / "oracle.json").read_text(encoding="utf-8"))


@pytest.fixture(params=["as_published", "saved_again", "by_auto_class", "copied", "pickled"])
def tokenizer(request, oracle, tmp_path):
    folder, _ = oracle
    if request.param == "by_auto_class":
        return AutoTokenizer.from_pretrained(folder)
    tokenizer = BaichuanTokenizer.from_pretrained(folder)
    if request.param == "saved_again":
        tokenizer.save_pretrained(tmp_path)
        return BaichuanTokenizer.from_pretrained(tmp_path)
    if request.param == "copied":
        return copy.deepcopy(tokenizer)
    return pickle.loads(pickle.dumps(tokenizer)) if request.param == "pickled" else tokenizer


def test_every_text_gets_the_ids_and_the_words_of_the_original(oracle, tokenizer):
    _, expected = oracle
    assert isinstance(tokenizer, BaichuanTokenizer)
    found = [
        {
            "text": case["text"],
            "ids": tokenizer.encode(case["text"]),
            "tokens": tokenizer.tokenize(case["text"]),
            "decode": tokenizer.decode(case["ids"]),
            "decode_skip": tokenizer.decode(case["ids"], skip_special_tokens=True),
        }
        for case in expected["cases"]
    ]
    assert found == expected["cases"]
    special = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id
    assert special == tuple(expected[name] for name in ("pad", "bos", "eos", "unk"))
    assert len(tokenizer) == expected["len"]


def test_plain_text_has_the_ids_of_the_original(oracle):
    folder, expected = oracle
    plain = [case for case in expected["cases"] if not any(mark in case["text"] for mark in SPELLED)]
    assert len(plain) > 60
    tokenizer = BaichuanTokenizer.from_pretrained(folder)
    assert encode_texts(tokenizer, [case["text"] for case in plain]) == [case["ids"] for case in plain]


@pytest.mark.parametrize(
    "text", ["</s>", "a</s>b", "<s>", "<unk>", "<reserved_102>你好", "<reserved_106> 你好"]
)
def test_control_tokens_of_baichuan_that_are_spelled_in_a_text_stay_text(oracle, text):
    folder, _ = oracle
    tokenizer = BaichuanTokenizer.from_pretrained(folder)
    before = tokenizer.encode(text)
    ids = encode_texts(tokenizer, [text])[0]
    turn_marks = set(tokenizer.convert_tokens_to_ids([f"<reserved_{n}>" for n in range(102, 108)]))
    assert not ({0, 1, 2} | turn_marks) & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == before  # the tokenizer itself is untouched


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (True, True)])
def test_bos_and_eos_are_added_as_set_and_written_out(bos, eos, tmp_path):
    tokenizer = BaichuanTokenizer.from_pretrained(FOLDER / "b2", add_bos_token=bos, add_eos_token=eos)
    expected = [1] * bos + [526] + [2] * eos
    assert tokenizer.encode("你好") == expected
    assert tokenizer.encode("你好", "你好") == expected * 2
    tokenizer.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (written["add_bos_token"], written["add_eos_token"]) == (bos, eos)
    assert BaichuanTokenizer.from_pretrained(tmp_path).encode("你好") == expected


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


def test_control_tokens_of_a_fast_tokenizer_that_are_spelled_in_a_text_stay_text(byte_tokenizer):
    text = "fever<|im_end|>\n"
    assert byte_tokenizer.eos_token_id in byte_tokenizer.encode(text)
    ids = encode_texts(byte_tokenizer, [text])[0]
    assert len(ids) == len(text)
    assert byte_tokenizer.decode(ids) == text
    assert byte_tokenizer.eos_token_id in byte_tokenizer.encode(text)


def test_added_tokens_that_control_nothing_are_found(byte_tokenizer):
    assert encode_texts(byte_tokenizer, ["<think>"])[0] == byte_tokenizer.convert_tokens_to_ids(["<think>"])


def test_padding_and_truncation_of_the_tokenizer_are_not_applied(byte_tokenizer):
    byte_tokenizer.pad_token = "<|im_end|>"
    byte_tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert [len(ids) for ids in encode_texts(byte_tokenizer, ["a", "bcd", ""])] == [1, 3, 0]


def test_each_text_is_encoded_alone(tiny_tokenizer):
    texts = ["fever", "", "is cough"]
    assert encode_texts(tiny_tokenizer, texts) == [encode_texts(tiny_tokenizer, [text])[0] for text in texts]
    assert encode_texts(tiny_tokenizer, []) == []
