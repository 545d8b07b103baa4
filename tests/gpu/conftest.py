"""Leaves out every test of this folder, by name and with the reason, where there is no CUDA device."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _needs_a_cuda_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch.cuda.is_available() is false: no CUDA device, or a torch built without CUDA")
