"""Loading, native architectures, attention masks, adapters and quantisation."""
