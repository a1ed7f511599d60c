"""Corpora, the store they are prepared into, and the batches drawn from it."""
