"""Words where jieba is installed, and what is said where it is not."""

import importlib.util
import os
import subprocess
import sys
from itertools import accumulate

import pytest

from medtune.evaluation.text import score_texts
from medtune.evaluation.words import cut_words

# A process in which the package cannot be found, as where the extra was not installed.
WITHOUT_JIEBA = """
from importlib import util
find_spec = util.find_spec
util.find_spec = lambda name, package=None: None if name == "jieba" else find_spec(name, package)
from medtune.evaluation.text import score_texts
scores = score_texts(["多喝热水，注意休息"], ["注意休息"]).to_dict()
print(scores["notes"], sorted(scores["tasks"]["rouge_l"]))
"""

needs_jieba = pytest.mark.skipif(importlib.util.find_spec("jieba") is None, reason="needs jieba")


@needs_jieba
def test_a_text_is_its_words_without_the_spaces():
    assert cut_words("高血压 患者\n注意休息") == ("高血压", "患者", "注意", "休息")


@needs_jieba
def test_the_dictionary_is_not_taken_from_a_folder_that_all_users_share(tmp_path):
    """Where jieba looks for it by default anyone may have left a file."""
    code = "from medtune.evaluation.words import cut_words; print(cut_words('高血压患者'))"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    (tmp_path / "jieba.cache").write_bytes(b"not what jieba has written")
    os.utime(tmp_path / "jieba.cache", (2**31, 2**31))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "('高血压', '患者')"
    assert [path.name for path in tmp_path.iterdir()] == ["jieba.cache"]
    assert done.stderr == ""


@needs_jieba
def test_a_long_text_is_cut_in_stretches():
    """Cut as one, a character over and over takes a time that grows with the square of its length."""
    words = cut_words("的" * 16384)
    assert "".join(words) == "的" * 16384
    assert set(range(4096, 16385, 4096)) <= set(accumulate(map(len, words)))


@needs_jieba
def test_figures_on_words_stand_beside_those_on_characters():
    """Gold 高血压 患者 注意 休息, predicted 高血压 注意 休息: 3 of 4 words, one pair of 2 and 3."""
    tasks = score_texts(["高血压患者注意休息"], ["高血压注意休息"]).tasks
    details = tasks["rouge_l"].details
    assert details["word_rouge_1"] == details["word_rouge_l"] == pytest.approx(100 * 6 / 7)
    assert details["word_rouge_2"] == pytest.approx(100 * 2 / 5)
    assert details["rouge_1"] == pytest.approx(100 * 14 / 16)
    assert set(tasks["bleu_4"].details) == {"bleu_4", "word_bleu_4"}


def test_without_jieba_they_are_left_out_by_name():
    done = subprocess.run([sys.executable, "-c", WITHOUT_JIEBA], capture_output=True, text=True, check=True)
    assert "measures on words are left out: jieba is not installed" in done.stdout
    assert "word_" not in done.stdout
    assert "rouge_1" in done.stdout
