"""The configuration of what `presets` shows."""

import dataclasses

from train.config.run import ModelName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Presets:
    """Show the sizes of models, with which defaults each optimizer trains them, and the presets."""

    model: ModelName | None = None
    """Show one size only, and where its numbers come from."""
