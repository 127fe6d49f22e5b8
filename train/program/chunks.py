"""Whether the logits of a language model are whole, and if not, how many exist at once."""

from train.config.run import LogitsName

LARGE_VOCABULARY = 16_000  # from here on the logits of a usual batch take more memory than all blocks
# Tokens of a device whose logits exist at once. Fewer take less memory, but each chunk reads and
# writes the gradient of the head: at 1024 tokens a third of the time of its products on an H100
# (8 bytes for 6 x 1024 operations an entry, at 3.35 TB/s and 990 TFLOP/s).
TOKENS = 1024


def chunk_of(choice: LogitsName, vocab_size: int, rows: int, seq_len: int) -> int | None:
    """Return the positions of each row whose logits exist at once; None if logits are whole.

    Args:
      choice: The flag.
      vocab_size: V.
      rows: Rows on a device.
      seq_len: T.
    """
    if choice == "whole" or (choice == "auto" and vocab_size < LARGE_VOCABULARY):
        return None
    chunks = -(-seq_len // max(TOKENS // rows, 1))
    return -(-seq_len // chunks)  # of equal size, so that little is filled up
