"""The command `sample`: the texts that a model writes after prompts."""
