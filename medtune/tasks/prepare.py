"""``task=prepare``: tokenise and pack, without training."""

from medtune.config.schema import Config
from medtune.data.datamodule import PackedDataModule
from medtune.data.tokens.prepare import tokenizer_source
from medtune.runtime.record import RunFolder, merge_json


def run(config: Config, folder: RunFolder) -> None:
    """Fills the token cache and writes the data report."""
    PackedDataModule(config, tokenizer_source(config.model), folder).setup()
    merge_json(folder.result_file, {"status": "finished", "data_report": str(folder.data_report_file)})
