"""From examples to token ids on disk: templates, vocabularies, the cache."""
