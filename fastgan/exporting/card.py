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
    """Writes the model card in Markdown.

    Args:
        generator: a generator from :func:`fastgan.models.build_networks`.
        name: title of the card, such as the run's folder.
        step: number of steps trained.
        settings: the run's settings by name, including ``data``.
        scores: one sentence per score of an evaluation, and one on its data and features.
        programs: one sentence per program in the folder.
    """
    architecture = {key: value for key, value in generator.architecture.items() if value is not None}
    settings = settings or {}
    own = architecture.get("model") == OWN
    lines = [
        f"# {name}",
        "",
        f"A generator of a GAN: latents, standard normal numbers [N, {generator.latent_dim}],"
        + (f" and class numbers, 0 to {generator.num_classes - 1}," if generator.num_classes is not None else "")
        + " become images [N, C, H, W] in [-1, 1].",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in architecture.items()),
        *([f"| classes | {', '.join(names)} |"] if (names := getattr(generator, "class_names", None)) else []),
        f"| parameters | {sum(p.numel() for p in generator.parameters()):,} |",
        f"| trained on | {settings.get('data', 'not recorded')} |",
        f"| steps | {'not recorded' if step is None else f'{step:,}'} |",
        "",
        "## Use",
        "",
        "```python",
        "import fastgan, torch",
        "",
        f'generator = fastgan.load_generator("this folder"{", model=build" if own else ""})'
        + ("  # the function that builds the networks" if own else ""),
        _example(generator),
        "```",
        "",
        "The command line takes this folder in place of a run: `fastgan generate FOLDER"
        + (" --model MODULE:FUNCTION`." if own else "`."),
        "",
    ]
    if scores:
        lines += ["## Scores", "", *(f"- {sentence}" for sentence in scores), ""]
    if programs:
        lines += ["Without fastgan:", "", *(f"- {sentence}" for sentence in programs), ""]
    if settings:
        lines += [
            "## Training",
            "",
            "```toml",
            *(f"{key} = {json.dumps(value)}" for key, value in settings.items()),
            "```",
            "",
        ]
    lines += [
        "## License of the data",
        "",
        "Fill in before sharing: the license of the training images, and what it allows for generated images.",
        "",
    ]
    return "\n".join(lines)


def _example(generator: nn.Module) -> str:
    labels = "" if generator.num_classes is None else f", torch.arange(16) % {generator.num_classes}"
    return f"images = generator(torch.randn(16, {generator.latent_dim}){labels})"
