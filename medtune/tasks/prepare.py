"""``task=prepare``: tokenise and pack, without training."""

from medtune.config.schema import Config
from medtune.data.datamodule import PackedDataModule
from medtune.models.load import load_tokenizer
from medtune.runtime.record import RunFolder


def run(config: Config, folder: RunFolder) -> None:
    """Fills the token cache and writes data_report.json."""
    PackedDataModule(config, load_tokenizer(config.model), folder).setup()
