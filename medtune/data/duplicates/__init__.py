"""What is there twice: equal and similar documents, and training documents in held-out splits."""
