"""The model card: describes the generator, its use, and missing information."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fastgan.models.own import OWN


def card_of(
    generator: nn.Module,
    *,
    name: str,
    step: int | None = None,
    settings: Mapping[str, Any] | None = None,
    scores: Sequence[str] = (),
    programs: Sequence[str] = (),
) -> str:
    """Writes the model card of a generator, of fastgan's or the user's own, in Markdown.

    ``name`` is the title, ``settings`` are those of the run, including ``data``, and ``scores`` and ``programs``
    sentences.
    """
    settings = settings or {}
    dimension, num_classes = generator.latent_dim, generator.num_classes
    classes, labels = "", ""
    if num_classes is not None:
        classes, labels = f" and class numbers, 0 to {num_classes - 1},", f", torch.arange(16) % {num_classes}"
    rows = {key: value for key, value in generator.architecture.items() if value is not None}
    if names := getattr(generator, "class_names", None):
        rows["classes"] = ", ".join(names)
    rows |= {
        "parameters": f"{sum(p.numel() for p in generator.parameters()):,}",
        "trained on": settings.get("data", "not recorded"),
        "steps": "not recorded" if step is None else f"{step:,}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    load, command = '"this folder")', "fastgan generate FOLDER"
    if generator.architecture.get("model") == OWN:
        load = '"this folder", model=build)  # the function that builds the networks'
        command += " --model MODULE:FUNCTION"
    toml = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    sections = {
        "## Scores": [f"- {sentence}" for sentence in scores],
        "Without fastgan:": [f"- {sentence}" for sentence in programs],
        "## Training": ["```toml", *toml, "```"] if toml else [],
    }
    more = "".join("\n".join([title, "", *lines, "\n"]) for title, lines in sections.items() if lines)
    return f"""# {name}

A generator of a GAN: latents, standard normal numbers [N, {dimension}],{classes} become images [N, C, H, W] in [-1, 1].

| | |
| --- | --- |
{table}

## Use

```python
import fastgan, torch

generator = fastgan.load_generator({load}
images = generator(torch.randn(16, {dimension}){labels})
```

The command line takes this folder in place of a run: `{command}`.

{more}## License of the data

Fill in before sharing: the license of the training images, and what it allows for generated images.
"""
