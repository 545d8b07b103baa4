"""Answering over HTTP: requests from many clients, one running batch."""
