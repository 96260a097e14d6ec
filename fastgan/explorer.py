"""A web page with sliders for the inputs of a generator, which shows the image.

The page is built on gradio, an extra. It loads nothing from other hosts: fonts are the system's, and gradio's analytics
are switched off.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastgan import sampling
from fastgan.data.gaussians import are_points
from fastgan.extras import require_gradio

NUM_DIRECTIONS = 8  # sliders that are visible without scrolling
REACH = 3.0
_UNMIXED = "none"
_EDGE = 384  # pixels; smaller pictures are enlarged by a whole number, up to it


class Explorer:
    """A generator's image as a function of the inputs of the page.

    For a generator with styles the directions are the first principal components of w, in standard deviations; else
    they are the first dimensions of the latent.
    """

    def __init__(self, generator: nn.Module) -> None:
        self.generator = generator
        self.num_classes = generator.num_classes
        self.crossovers: list[str] = []
        self._directions = None
        if hasattr(generator, "truncate"):
            resolutions = generator.synthesis.in_use()
            ranges = [name for name, (low, _) in sampling.RANGES.items() if low <= resolutions[-1]]
            self.crossovers = [_UNMIXED, *ranges, *map(str, resolutions)]
            self._directions = sampling.principal_directions(generator)
        size = generator.latent_dim if self._directions is None else len(self._directions.deviations)
        self.num_directions = min(NUM_DIRECTIONS, size)

    @property
    def has_styles(self) -> bool:
        return self._directions is not None

    def image(
        self,
        seed: int,
        offsets: Sequence[float] = (),
        *,
        label: int = 0,
        truncation: float = 1.0,
        other_seed: int = 0,
        crossover: str = _UNMIXED,
        noise: bool = True,
    ) -> np.ndarray:
        """The image as uint8 [H, W] or [H, W, 3], enlarged.

        Args:
            seed: of the latent.
            offsets: along the first directions.
            label: for a conditional generator.
            truncation: psi; this and the following only for a generator with styles.
            other_seed: of image B of style mixing.
            crossover: the styles taken from B, as in :func:`fastgan.sampling.layers_of`; "none" for no mixing.
            noise: whether the constant noise is added.
        """
        latents = sampling.draw_latents(1, self.generator.latent_dim, seed=seed)
        if self._directions is None:
            for dimension, offset in enumerate(offsets):
                latents[0, dimension] += offset
            labels = None if self.num_classes is None else sampling.labels_in_turn(1, self.num_classes) + label
            return _pixels(sampling.render(self.generator, latents, labels))
        w = sampling.map_latents(self.generator, latents)
        for vector, deviation, offset in zip(*self._of_w(len(offsets)), offsets, strict=True):
            w = w + offset * deviation * vector
        styles = self.generator.styles(w)
        if crossover != _UNMIXED:
            other = sampling.draw_latents(1, self.generator.latent_dim, seed=other_seed)
            layers = sampling.layers_of(self.generator, crossover)
            styles = sampling.mix(styles, self.generator.styles(sampling.map_latents(self.generator, other)), layers)
        images = sampling.render_styles(
            self.generator, styles, truncation=truncation, noise="constant" if noise else "none"
        )
        return _pixels(images)

    def _of_w(self, count: int) -> tuple[Tensor, Tensor]:
        return self._directions.vectors[:count], self._directions.deviations[:count]


def build_page(explorer: Explorer, title: str) -> Any:
    """The page, a ``gradio.Blocks``."""
    gradio = require_gradio()
    # Each image is a file in gradio's cache; files older than an hour are deleted.
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gradio.Markdown(f"## {title}")
        with gradio.Row():
            with gradio.Column():
                inputs = {"seed": gradio.Number(0, label="Seed", precision=0, minimum=0)}
                if explorer.num_classes is not None:
                    inputs["label"] = gradio.Dropdown(list(range(explorer.num_classes)), value=0, label="Class")
                if explorer.has_styles:
                    inputs["truncation"] = gradio.Slider(0, 1, 1, step=0.05, label="Truncation")
                    inputs["noise"] = gradio.Checkbox(True, label="Noise")
                    with gradio.Row():
                        inputs["crossover"] = gradio.Dropdown(
                            explorer.crossovers, value=_UNMIXED, label="Styles of B: a range, or from a resolution on"
                        )
                        inputs["other_seed"] = gradio.Number(1, label="Seed of B", precision=0, minimum=0)
            with gradio.Column():
                # At its own size, so that pixels stay squares.
                image = gradio.Image(
                    explorer.image(0),
                    label="Image",
                    height=_EDGE + 40,
                    format="png",
                    interactive=False,
                    buttons=["download"],
                )
        named = "Component {} of w" if explorer.has_styles else "Dimension {} of the latent, added"
        sliders = []
        for start in range(0, explorer.num_directions, 4):
            with gradio.Row():
                for i in range(start, min(start + 4, explorer.num_directions)):
                    sliders.append(gradio.Slider(-REACH, REACH, 0, step=0.1, label=named.format(i)))
        names = list(inputs)

        def show(*values: Any) -> np.ndarray:
            if None in values:
                raise gradio.Error("a field is empty; expected a number")
            return explorer.image(offsets=values[len(names) :], **dict(zip(names, values, strict=False)))

        everything = [*inputs.values(), *sliders]
        gradio.on(
            [component.change for component in everything],
            show,
            everything,
            image,
            show_progress="hidden",
            trigger_mode="always_last",
        )
    return page


def serve(page: Any, host: str, port: int) -> str:
    """Serves a page in another thread and returns its address; ``page.close()`` ends it.

    Raises:
        OSError: the port is taken.
    """
    gradio = require_gradio()
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        theme=theme,
        footer_links=[],
    )
    return address


def _pixels(images: Tensor) -> np.ndarray:
    pixels = sampling.picture(images, padding=0)
    factor = 1 if are_points(images) else max(1, _EDGE // pixels.shape[2])
    large = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return np.ascontiguousarray(large.permute(1, 2, 0).squeeze(2).numpy())
