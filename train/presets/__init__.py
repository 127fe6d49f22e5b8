"""The command `presets`: the sizes of models, and the defaults of each optimizer."""
