"""Whole steps: a new one is a module here and a name in this list; a new preset is here by itself."""

from benchmarks.steps import critics, presets, spectral_norms

STEPS = (
    critics.WGAN_GP,
    critics.R1,
    spectral_norms.FORWARD,
    spectral_norms.FORWARD_AND_BACKWARD,
    *presets.JUDGED,
    *presets.TOY,
    *presets.JUDGED_BFLOAT16,
    *presets.TRAIN,
    *presets.SAMPLE,
)
