"""One module per verb: wiring only."""
