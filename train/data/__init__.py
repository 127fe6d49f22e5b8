"""Text, tokenizer, and batches of tokens."""
