"""What is trained."""

from dataclasses import replace

import torch

from medtune.config.schema import Config, ModelConfig, TrainerConfig
from medtune.models.load import load_model
from medtune.training.modules import SFTModule


def test_training_begins_with_the_configured_model_whatever_weights_says(tmp_path, tiny_model_folder):
    begun = Config(
        model=ModelConfig(path=str(tiny_model_folder)), trainer=TrainerConfig(accelerator="cpu"), seed=1
    )
    other = load_model(begun, for_training=False)
    with torch.no_grad():
        other.model.norm.weight.mul_(2)
    other.save_pretrained(tmp_path / "other")
    module = SFTModule(replace(begun, weights=str(tmp_path / "other")), total_steps=1)
    expected = load_model(begun, for_training=True).state_dict()
    assert all(
        torch.equal(expected[name], value) for name, value in module.build_model().state_dict().items()
    )
