"""From tokens to batches, by index arithmetic: lengths, mixes, packing, order."""
