"""``python -m medtune task=serve`` as a user runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
KEY = "key-of-the-test"
COMMAND = [sys.executable, "-m", "medtune", "task=serve", "model=local", "trainer.accelerator=cpu"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": "", "KEY_OF_TEST": KEY}


def test_a_server_answers_until_it_is_told_to_end(tmp_path, tiny_model_folder):
    """With a key, of which nothing is left in the run folder or on the screen."""
    command = [*COMMAND, f"model.path={tiny_model_folder}", "template=plain", "run_dir=run", "serve.port=0"]
    with subprocess.Popen(
        [*command, "serve.api_key_env=KEY_OF_TEST"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        result = tmp_path / "run" / "result.json"
        deadline = time.monotonic() + 100
        while not result.is_file():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        url = json.loads(result.read_text(encoding="utf-8"))["url"]
        body = {"model": "local", "messages": [{"role": "user", "content": "precious text"}], "max_tokens": 5}
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as reply:
            assert json.loads(reply.read())["usage"]["completion_tokens"] == 5
        process.send_signal(signal.SIGTERM)
        screen, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(result.read_text(encoding="utf-8")) == {
        "status": "finished",
        "url": url,
        "model": "local",
    }
    lines = screen.splitlines()
    assert f"serving local at {url}/v1 (OpenAI's API); Ctrl-C ends" in lines
    assert lines[-1] == "done: run"
    written = [file.read_text(encoding="utf-8") for file in (tmp_path / "run").rglob("*") if file.is_file()]
    for secret in (KEY, "precious"):
        assert not any(secret in text for text in [screen, *written])


@pytest.mark.slow
def test_a_port_that_is_taken_is_one_line(tmp_path, tiny_model_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, f"model.path={tiny_model_folder}", "run_dir=run", f"serve.port={port}"],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 2
    assert f"serve.port={port} is taken at 127.0.0.1; set another one, or serve.port=0" in done.stderr
    assert "Traceback" not in done.stderr
