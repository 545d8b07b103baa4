"""medtune: continued pretraining and fine-tuning of medical language models, from data to scores."""

__version__ = "0.1.0"
