"""Generates images from a seed, along paths in latent space or with mixed styles, and writes them to files."""

from fastgan.sampling.files import ANIMATIONS, Sheet, check_output, save_animation, save_images, write_sheet
from fastgan.sampling.generation import SamplingError, check_truncation, draw_latents, generate, labels_in_turn, render
from fastgan.sampling.grids import columns_by_class, columns_of, image_grid, picture, save_png, scatter
from fastgan.sampling.paths import along_dimension, linear, spherical
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
