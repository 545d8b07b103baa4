"""GGUF through llama.cpp's converter; a script with its command line stands in for it."""

import pytest

from medtune.runtime.errors import ConfigError
from medtune.tasks.gguf import HEADER, check_file, convert

# What convert_hf_to_gguf.py documents: the folder, --outfile, --outtype; nothing but the file is written.
CONVERTER = """
import argparse, pathlib, struct, sys
parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--outfile", type=pathlib.Path)
parser.add_argument("--outtype", choices=["f32", "f16", "bf16", "q8_0", "auto"])
options = parser.parse_args()
if not (options.model / "config.json").is_file():
    print("loading", file=sys.stderr)
    sys.exit("Model FooForCausalLM is not supported")
options.outfile.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, TENSORS, 1))
"""


@pytest.fixture
def make_converter(tmp_path):
    def make(tensors: int = 5):
        path = tmp_path / "convert_hf_to_gguf.py"
        path.write_text(CONVERTER.replace("TENSORS", str(tensors)))
        return path

    return make


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_the_file_lies_beside_the_weights(model, make_converter, kind):
    file = convert(model, make_converter(), kind)
    assert file == model / f"model-{kind}.gguf"
    assert HEADER.unpack(file.read_bytes())[2] == 5


def test_what_the_converter_does_not_know_is_told_in_its_words(model, make_converter):
    (model / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"(?s)ended with code 1; .*model holds the model .* not supported"):
        convert(model, make_converter(), "f16")
    assert not list(model.glob("*.gguf"))


def test_a_file_without_tensors_is_no_model(model, make_converter):
    with pytest.raises(ConfigError, match=r"model-f16\.gguf was written .* no GGUF file with tensors"):
        convert(model, make_converter(tensors=0), "f16")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGML" + bytes(20)])
def test_another_file_is_told_apart(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match="no GGUF file"):
        check_file(tmp_path / "x.gguf")
