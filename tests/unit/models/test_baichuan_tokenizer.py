import copy
import json
import pickle
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import medtune.models  # noqa: F401  (Baichuan becomes known to transformers)
from medtune.models.baichuan_tokenizer import BaichuanTokenizer

FOLDER = Path(__file__).parents[2] / "fixtures" / "baichuan" / "tok_tiny"


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
