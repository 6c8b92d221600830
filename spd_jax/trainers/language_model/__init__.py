"""Language models around a recurrent cell, trained at full size."""

from spd_jax.trainers.language_model.network import PRESETS, LanguageModelConfig
from spd_jax.trainers.language_model.task import LanguageModelTask

__all__ = ["PRESETS", "LanguageModelConfig", "LanguageModelTask"]
