import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from medtune.generation.text import INCOMPLETE, TextStream, decode
from medtune.models.baichuan_tokenizer import BaichuanTokenizer

NASTY = [
    "hello",
    " two  spaces ",
    "患者：高血压",
    "a😀b",
    "👨‍👩‍👧",
    "e\u0301",
    "\n\n1.\t",
    "▁",
    "x\ufffdy",
    "龘",
]


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A token per byte: a Chinese character is three tokens, most emoji are four. </s> is 256."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*alphabet, "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.fixture(scope="module")
def fallback_tokenizer():
    """Llama-2's decoder: a token per letter, and <0x00> ... <0xFF> for the bytes of other characters."""
    vocabulary = {token: i for i, token in enumerate([f"<0x{byte:02X}>" for byte in range(256)])}
    vocabulary |= {letter: 256 + i for i, letter in enumerate("ab患")}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture(scope="module")
def sentencepiece_tokenizer(tmp_path_factory):
    """Baichuan-1's settings: a dummy space in front of a text, and bytes for unknown characters."""
    from sentencepiece import SentencePieceTrainer

    folder = tmp_path_factory.mktemp("sentencepiece")
    SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world two spaces 患者 高血压 a b x y"] * 20),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return BaichuanTokenizer(vocab_file=str(folder / "tokenizer.model"), add_bos_token=False)


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("kind", ["byte_tokenizer", "fallback_tokenizer", "sentencepiece_tokenizer"])
def test_the_pieces_joined_are_the_text(kind, text, request):
    tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.end() == decode(tokenizer, ids)
    if INCOMPLETE not in text:
        assert not any(INCOMPLETE in piece for piece in pieces)


@given(ids=st.lists(st.integers(0, 256), max_size=40))
def test_bytes_in_any_order_give_what_decoding_them_at_once_gives(byte_tokenizer, ids):
    stream = TextStream(byte_tokenizer)
    assert "".join([*map(stream.push, ids), stream.end()]) == decode(byte_tokenizer, ids)


@given(ids=st.lists(st.integers(0, 258), max_size=20))
def test_a_wrong_byte_takes_nothing_back(fallback_tokenizer, ids):
    """Of a row of bytes with one that is wrong, the decoder gives none, though the first alone are a text."""
    assert decode(fallback_tokenizer, [65, 255]) == 2 * INCOMPLETE
    stream = TextStream(fallback_tokenizer)
    assert "".join([*map(stream.push, ids), stream.end()]) == decode(fallback_tokenizer, ids)


def test_a_character_comes_when_its_last_byte_has_come(byte_tokenizer):
    stream = TextStream(byte_tokenizer)
    ids = byte_tokenizer.encode("a患b", add_special_tokens=False)
    assert [stream.push(token) for token in ids] == ["a", "", "", "患", "b"]
    assert stream.end() == ""


def test_an_unfinished_character_shows_at_the_end(byte_tokenizer):
    stream = TextStream(byte_tokenizer)
    first, *_ = byte_tokenizer.encode("患", add_special_tokens=False)
    assert stream.push(first) == ""
    assert stream.end() == INCOMPLETE
    assert stream.end() == ""


def test_control_tokens_have_no_text(byte_tokenizer):
    stream = TextStream(byte_tokenizer)
    a, b = byte_tokenizer.encode("ab", add_special_tokens=False)
    assert [stream.push(token) for token in (a, byte_tokenizer.eos_token_id, b)] == ["a", "", "b"]
