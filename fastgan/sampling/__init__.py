"""Images out of a trained generator: from a seed, along paths through its latents, with mixed styles, and as files."""

from fastgan.sampling.animation import save_animation
from fastgan.sampling.files import ANIMATIONS, Sheet, check_output, save_images, write_sheet
from fastgan.sampling.generation import SamplingError, check_truncation, draw_latents, generate, labels_in_turn, render
from fastgan.sampling.grids import columns_by_class, columns_of, image_grid, picture, save_png
from fastgan.sampling.paths import along, along_dimension, linear, spherical
from fastgan.sampling.styles import (
    RANGES,
    Directions,
    check_component,
    layers_of,
    map_latents,
    mix,
    mix_all,
    principal_directions,
    render_styles,
    require_styles,
)

__all__ = [
    "ANIMATIONS",
    "RANGES",
    "Directions",
    "SamplingError",
    "Sheet",
    "along",
    "along_dimension",
    "check_component",
    "check_output",
    "check_truncation",
    "columns_by_class",
    "columns_of",
    "draw_latents",
    "generate",
    "image_grid",
    "labels_in_turn",
    "layers_of",
    "linear",
    "map_latents",
    "mix",
    "mix_all",
    "picture",
    "principal_directions",
    "render",
    "render_styles",
    "require_styles",
    "save_animation",
    "save_images",
    "save_png",
    "spherical",
    "write_sheet",
]
