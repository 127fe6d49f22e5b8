"""The command `export`: the weights of a run in a folder of Hugging Face."""
