"""Scores of generated text: PromptCBLUE as its organisers count, and plain text measures for other data."""
