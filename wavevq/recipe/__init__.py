"""The whole grammar of a recipe: one YAML file, one experiment. Imports no torch.

Every section is frozen and rejects unknown keys. Derived values (hop, number of speakers, vocabulary) are
computed where they are needed and never typed into a recipe.
"""

from __future__ import annotations

from wavevq.recipe.data import Data, Folder, Fsdd, LibriSpeech, OnDisk, Speech, Synthetic, Vctk
from wavevq.recipe.model import (
    Bottleneck,
    Codebook,
    Continuous,
    EmaVq,
    Encoder,
    GradientVq,
    Model,
    NoBottleneck,
    SpectralEncoder,
    Vae,
    WaveformEncoder,
    WaveNetDecoder,
)
from wavevq.recipe.reading import load_recipe, overridden, parse_recipe
from wavevq.recipe.recipe import Recipe
from wavevq.recipe.section import Section
from wavevq.recipe.training import Evaluation, Joint, Prior, Schedule, Train, TransformerPrior, WaveNetPrior

__all__ = [
    "Bottleneck",
    "Codebook",
    "Continuous",
    "Data",
    "EmaVq",
    "Encoder",
    "Evaluation",
    "Folder",
    "Fsdd",
    "GradientVq",
    "Joint",
    "LibriSpeech",
    "Model",
    "NoBottleneck",
    "OnDisk",
    "Prior",
    "Recipe",
    "Schedule",
    "Section",
    "SpectralEncoder",
    "Speech",
    "Synthetic",
    "Train",
    "TransformerPrior",
    "Vae",
    "Vctk",
    "WaveNetDecoder",
    "WaveNetPrior",
    "WaveformEncoder",
    "load_recipe",
    "overridden",
    "parse_recipe",
]
