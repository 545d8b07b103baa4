"""Starts whole runs in forked processes, so that they can be killed: ``kill_server.py SETTING...``.

A process that has imported everything and composed the settings forks for every run: one starts in a fraction
of a second and can be killed at any moment of its life. Each line of stdin is a JSON object, the overrides of
one run; the answers are the child's process id when it is started, and how it ended.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: F401
import lightning.pytorch  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import medtune.tasks.train  # noqa: F401
from medtune.launch.command import make_plan, read_options, request_of
from medtune.launch.run import Request, settle_request
from medtune.launch.run_folder import make_run_folder, write_run_folder
from medtune.tasks import run


def run_whole(composed: Request, overrides: dict[str, Any]) -> None:
    """The launcher's steps from the settings on, and the task, in this process."""
    torch.set_num_threads(overrides.pop("threads", 1))
    values = {**composed.values}
    for key, value in overrides.items():
        section, _, name = key.rpartition(".")
        if section:
            values[section] = {**values[section], name: value}
        else:
            values[key] = value
    typed = [f"{key}={value}" for key, value in overrides.items()]
    if not Path(overrides["run_dir"], "config.yaml").is_file():
        typed += composed.overrides
    config = settle_request(Request(values, typed)).config
    folder = make_run_folder(config)
    write_run_folder(folder, config, typed)
    run(config, folder)


def start(composed: Request, overrides: dict[str, Any]) -> int:
    """Forks a process for a run; gives its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(overrides["run_dir"] + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run_whole(composed, overrides)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    plan = make_plan(read_options(sys.argv[1:]))
    composed = request_of(plan.settings, plan.line.accepted)
    print("ready", flush=True)
    for line in sys.stdin:
        child = start(composed, json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
