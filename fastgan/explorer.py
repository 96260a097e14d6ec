"""A web page that shows a generator's image, with sliders for the generator's inputs.

The page is built on gradio, an extra. It loads nothing from other hosts: fonts are the system's, and gradio's analytics
are switched off.
"""

import random
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from fastgan import sampling
from fastgan.data import to_uint8
from fastgan.data.gaussians import are_points
from fastgan.extras import require_gradio

NUM_DIRECTIONS = 8
REACH = 3.0
NUM_SEEDS = 12  # in the grid of seeds
_UNMIXED = "none"
_EDGE = 1024  # pixels; smaller images are enlarged by an integer factor up to this, so that their pixels stay squares
_SMALL_EDGE = 128  # pixels, in the grid of seeds

# The image stays beside the controls at any width, and visible while they scroll.
_CSS = """
.gradio-container .main {padding: 8px !important}
#page {display: grid; grid-template-columns: minmax(130px, 5fr) minmax(170px, 4fr); gap: 12px; align-items: start}
#page > * {min-width: 0 !important}
#images {position: sticky; top: 8px}
#image img {width: min(100%, 88vh); height: auto; margin: auto; display: block; object-fit: contain}
#seeds .grid-container {grid-template-columns: repeat(auto-fill, minmax(72px, 1fr)) !important}
#pair {flex-wrap: nowrap} #pair > * {min-width: 0 !important}
#controls .row > *, #controls .form > * {min-width: min(150px, 100%) !important}
"""


class Explorer:
    """A generator's image as a function of the page's inputs.

    For a generator with styles the directions are the first principal components of w, in standard deviations;
    otherwise they are the first dimensions of the latent.
    """

    def __init__(self, generator: nn.Module) -> None:
        self.generator = generator
        self.num_classes = generator.num_classes
        self.crossovers: dict[str, str] = {}
        self._directions = None
        if hasattr(generator, "truncate"):
            resolutions = generator.synthesis.in_use()
            self.crossovers = {_UNMIXED: "none"}
            for name, (low, high) in sampling.RANGES.items():
                if sizes := [str(size) for size in resolutions if low <= size < high]:
                    self.crossovers[name] = f"{name}: {', '.join(sizes)}"
            self.crossovers |= {str(size): f"from {size}x{size} on" for size in resolutions}
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
        edge: int = _EDGE,
    ) -> np.ndarray:
        """The image as uint8 [H, W] or [H, W, 3], enlarged by an integer factor up to ``edge`` pixels.

        ``offsets`` are along the first directions; ``truncation``, ``crossover`` (as in
        :func:`fastgan.sampling.layers_of`, or "none"), the ``other_seed`` of image B in style mixing, and the constant
        ``noise`` are only for a generator with styles.
        """
        latents = sampling.draw_latents(1, self.generator.latent_dim, seed=seed)
        if self._directions is None:
            for dimension, offset in enumerate(offsets):
                latents[0, dimension] += offset
            labels = None if self.num_classes is None else sampling.labels_in_turn(1, self.num_classes) + label
            return _pixels(sampling.render(self.generator, latents, labels), edge)
        w = sampling.map_latents(self.generator, latents)
        for vector, deviation, offset in zip(
            self._directions.vectors, self._directions.deviations, offsets, strict=False
        ):
            w = w + offset * deviation * vector
        styles = self.generator.styles(w)
        if crossover != _UNMIXED:
            other = sampling.draw_latents(1, self.generator.latent_dim, seed=other_seed)
            layers = sampling.layers_of(self.generator, crossover)
            styles = sampling.mix(styles, self.generator.styles(sampling.map_latents(self.generator, other)), layers)
        images = sampling.render_styles(
            self.generator, styles, truncation=truncation, noise="constant" if noise else "none"
        )
        return _pixels(images, edge)

    def save(self, path: str | Path, seed: int, offsets: Sequence[float] = (), **inputs: Any) -> None:
        """Writes :meth:`image` to a file, not enlarged unless ``edge`` is given."""
        Image.fromarray(self.image(seed, offsets, **{"edge": 0} | inputs)).save(path)

    def command(
        self, run: str, seed: int, offsets: Sequence[float] = (), *, model: str | None = None, **inputs: Any
    ) -> str:
        """The shell command that writes :meth:`image` of these inputs: ``fastgan generate`` if it supports them.

        ``run`` and ``model`` are the generator's folder and, for a user's own, the value of ``--model``.
        """
        defaults = {"truncation": 1, "noise": True, "crossover": _UNMIXED}
        inputs = {name: value for name, value in inputs.items() if name not in defaults or value != defaults[name]}
        if "crossover" not in inputs:
            inputs.pop("other_seed", None)
        offsets = [round(offset, 2) for offset in offsets]
        if not any(offsets) and inputs.keys() <= {"label", "truncation"}:
            options = {"class": inputs.get("label"), "truncation": inputs.get("truncation"), "model": model}
            more = "".join(f" --{name} {value}" for name, value in options.items() if value is not None)
            return f"fastgan generate {shlex.quote(run)} --seed {seed} --count 1{more} --out image"
        last = max((i for i, offset in enumerate(offsets) if offset), default=-1)
        arguments = ["'image.png'", str(seed), *([str(offsets[: last + 1])] if last >= 0 else [])]
        arguments += [f"{name}={value!r}" for name, value in inputs.items()]
        program = (
            "import fastgan; from fastgan.explorer import Explorer; "
            f"Explorer(fastgan.load_generator({run!r}{'' if model is None else f', model={model!r}'}))"
            f".save({', '.join(arguments)})"
        )
        plain = not set(run) & set("\"\\$`!'")  # characters with a meaning in double quotes
        return f'python -c "{program}"' if plain else f"python -c {shlex.quote(program)}"


def build_page(explorer: Explorer, title: str, run: str = "RUN", model: str | None = None) -> Any:
    """Builds the page, a ``gradio.Blocks``; the shown command names ``run`` and ``model``."""
    gradio = require_gradio()

    def picture(label: str, name: str, **more: Any) -> Any:
        return gradio.Image(label=label, elem_id=name, format="png", interactive=False, buttons=["download"], **more)

    # Each image is a file in gradio's cache; files older than an hour are deleted.
    with gradio.Blocks(title=title, analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)) as page:
        gradio.Markdown(f"## {title}")
        with gradio.Row(elem_id="page"):
            with gradio.Column(elem_id="images"):
                image = picture("Image", "image", value=explorer.image(0), show_label=False)
                with gradio.Row(elem_id="pair", visible=False) as pair:
                    a, b = picture("A", "a"), picture("B", "b")
                command = gradio.Textbox(
                    explorer.command(run, 0, model=model),
                    label="The command that makes this image",
                    elem_id="command",
                    lines=1,
                    buttons=["copy"],
                )
            with gradio.Column(elem_id="controls"):
                with gradio.Row():
                    random_seed, reset = gradio.Button("Random seed", variant="primary"), gradio.Button("Reset")
                inputs = {"seed": gradio.Number(0, label="Seed", precision=0, minimum=0)}
                if explorer.num_classes is not None:
                    inputs["label"] = gradio.Dropdown(list(range(explorer.num_classes)), value=0, label="Class")
                if explorer.has_styles:
                    inputs["truncation"] = gradio.Slider(
                        0, 1, 1, step=0.05, label="Truncation (0: the average image, 1: none)"
                    )
                    inputs["noise"] = gradio.Checkbox(True, label="Noise")
                    choices = [(label, value) for value, label in explorer.crossovers.items()]
                    inputs["crossover"] = gradio.Dropdown(choices, value=_UNMIXED, label="Take from B: layers")
                    inputs["other_seed"] = gradio.Number(1, label="Seed of B", precision=0, minimum=0)
                named = "Component {} of w (offset)" if explorer.has_styles else "Latent dimension {} (offset)"
                sliders = [
                    gradio.Slider(-REACH, REACH, 0, step=0.1, label=named.format(i))
                    for i in range(explorer.num_directions)
                ]
                with gradio.Accordion("Other seeds: click on one", open=False) as others:
                    first = gradio.Number(0, label="From seed", precision=0, minimum=0)
                    grid = gradio.Gallery(
                        elem_id="seeds",
                        height="auto",
                        allow_preview=False,
                        show_label=False,
                        interactive=False,
                        buttons=[],
                    )
        names = list(inputs)
        everything = [*inputs.values(), *sliders]
        defaults = [component.value for component in everything]

        def named_inputs(values: Sequence[Any]) -> dict[str, Any]:
            if None in values:
                raise gradio.Error("a field is empty; expected a number")
            return dict(zip(names, values, strict=False))

        def show(*values: Any) -> list[Any]:
            given, offsets = named_inputs(values), values[len(names) :]
            shown = [
                explorer.image(offsets=offsets, **given),
                explorer.command(run, offsets=offsets, model=model, **given),
            ]
            if not explorer.has_styles:
                return shown
            if given["crossover"] == _UNMIXED:
                return [*shown, gradio.Row(visible=False), None, None]
            alone = {"truncation": given["truncation"], "noise": given["noise"]}
            parts = explorer.image(given["seed"], offsets, **alone), explorer.image(given["other_seed"], **alone)
            return [*shown, gradio.Row(visible=True), *parts]

        def show_seeds(start: int, *values: Any) -> list[tuple[np.ndarray, str]]:
            given = named_inputs([*values, start])
            kept = {name: value for name, value in given.items() if name in ("label", "truncation", "noise")}
            seeds = range(start, start + NUM_SEEDS)
            return [(explorer.image(seed, edge=_SMALL_EDGE, **kept), f"seed {seed}") for seed in seeds]

        def chosen(start: int, event: gradio.SelectData) -> int:
            return start + event.index

        gradio.on(
            [component.change for component in everything],
            show,
            everything,
            [image, command, *([pair, a, b] if explorer.has_styles else [])],
            show_progress="hidden",
            trigger_mode="always_last",
        )
        random_seed.click(lambda: random.randrange(10**6), None, inputs["seed"], show_progress="hidden")
        reset.click(lambda: defaults, None, everything, show_progress="hidden")
        kept = [inputs[name] for name in names if name in ("label", "truncation", "noise")]
        gradio.on(
            [others.expand, *(component.change for component in (first, *kept))],
            show_seeds,
            [first, *inputs.values()],
            grid,
            show_progress="hidden",
            trigger_mode="always_last",
        )
        grid.select(chosen, first, inputs["seed"], show_progress="hidden")
    return page


def serve(page: Any, host: str, port: int) -> str:
    """Serves a page in another thread and returns its address; ``page.close()`` ends it.

    Raises:
        OSError: if the port is taken.
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
        css=_CSS,
        footer_links=[],
    )
    return address


def _pixels(images: Tensor, edge: int) -> np.ndarray:
    pixels = sampling.picture(images) if are_points(images) else to_uint8(images[0])
    factor = 1 if are_points(images) else max(1, edge // pixels.shape[2])
    large = pixels.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return np.ascontiguousarray(large.permute(1, 2, 0).squeeze(2).numpy())
