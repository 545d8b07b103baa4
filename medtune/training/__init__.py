"""LightningModules, the exact loss, strategies, callbacks and checkpoints."""
