"""Turning prompts into text."""
