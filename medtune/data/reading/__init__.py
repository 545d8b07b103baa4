"""From a source's settings to its examples: files, records, formats."""
