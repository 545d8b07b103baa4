"""From files to batches: sources, formats, templates, the token store, packing, order."""
