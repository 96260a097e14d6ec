"""All settings of a training run, as one typed dataclass.

This module does not import torch, so that ``fastgan --help`` is fast.
"""

import dataclasses
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from fastgan.errors import InputError, unknown


class SettingsError(InputError):
    """A setting that is unknown, of the wrong type, out of range or impossible here. The message is one sentence."""


_PRESETS = Path(__file__).with_name("presets")
_BOOLEANS = {"true": True, "false": False}


class Range(NamedTuple):
    """An interval of numbers, closed unless said otherwise."""

    low: float
    high: float = math.inf
    above_low: bool = False
    below_high: bool = False

    def includes(self, value: int | float) -> bool:
        """Whether a number lies in the interval; False for NaN and infinities."""
        over = value > self.low if self.above_low else value >= self.low
        under = value < self.high if self.below_high or self.high == math.inf else value <= self.high
        return over and under

    def __str__(self) -> str:
        low = f"{'above' if self.above_low else 'at least'} {self.low}"
        if self.high == math.inf:
            return low
        if not self.above_low and not self.below_high:
            return f"from {self.low} to {self.high}"
        return f"{low} and {'below' if self.below_high else 'at most'} {self.high}"


# Numbers by resolution. The code that reads them checks their values.
_BY_RESOLUTION = re.compile(r"(\d{1,4}:[\d.e-]{1,20}(, *\d{1,4}:[\d.e-]{1,20})*)?")


Schedule = float | str | Callable[[int], float]
"""A number, ``cosine(START, END, STEPS)``, or a function of the number of steps so far."""

_COSINE = re.compile(r"cosine\( *([\d.e+-]+) *, *([\d.e+-]+) *, *(\d+) *\)")
# UTF-8, and so TOML, cannot hold half of a surrogate pair.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
# Placeholder in config.toml and checkpoints for values that only a script has, such as functions.
_OF_A_SCRIPT = re.compile("<.*>")


def _setting(
    default: Any,
    help: str,
    valid: Range | re.Pattern[str] | list[str] | None = None,
    *,
    scheduled: bool = False,
    code: bool = False,
) -> Any:
    """A field. With ``scheduled`` its value may be a :data:`Schedule`; with ``code``, a function or object."""
    return field(default=default, metadata={"help": help, "valid": valid, "scheduled": scheduled, "code": code})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The settings of a run. Each field's metadata holds its help and its valid values.

    Raises:
        SettingsError: for a value of the wrong type or out of range.
    """

    data: str = _setting(
        "digits", "images: 'digits', 'photos' or 'gaussians' (bundled), a folder, a zip, an IDX file, .npy or .npz"
    )
    resolution: int = _setting(
        32, "height and width of the images in pixels; data of another size are fitted to it", Range(1, 4096)
    )
    fit: str = _setting(
        "crop",
        "images that are not square: crop keeps the middle, pad adds black edges, stretch distorts, refuse is an error",
        ["crop", "pad", "stretch", "refuse"],
    )
    skip_broken: bool = _setting(False, "leave out image files that cannot be read")
    data_on_device: str = _setting(
        "auto",
        "keep all images on the device: yes, no or auto (where they take at most a quarter of the free memory, there "
        "and of the machine)",
        re.compile(r"auto|yes|no"),
    )
    workers: int = _setting(
        0,
        "processes of each rank that read images which are not kept on the device; 0 for its share of the cores but "
        "one, from 1 to 8",
        Range(0, 1024),
    )
    flips: bool = _setting(False, "mirror real images left to right, each with probability 1/2 in each batch")
    diff_augment: str = _setting(
        "",
        "DiffAugment of what the discriminator sees, such as 'color,translation,cutout'; none by default",
    )
    model: str = _setting("dcgan", "architecture: vanilla, dcgan, wgan-gp, sngan, stylegan or mlp")
    base_channels: int = _setting(0, "base width of the networks' layers; 0 for the model's default", Range(0, 4096))
    latent_dim: int = _setting(100, "length of a latent", Range(1, 65536))
    minibatch: str = _setting(
        "none",
        "layer by which the discriminator compares a batch: none, stddev or discrimination (dcgan and mlp have them)",
    )
    style_mixing: float = _setting(
        0.0, "style mixing: probability that a training image has the styles of two latents (stylegan)", Range(0, 1)
    )
    grow_from: int = _setting(
        0,
        "progressive growing: first resolution, doubled until it is that of the images (stylegan); 0 for no growing",
        Range(0, 4096),
    )
    grow_stable_steps: int = _setting(500, "steps at each resolution before the next fades in", Range(1))
    grow_fade_steps: int = _setting(500, "steps in which a resolution fades in", Range(0))
    conditional: bool = _setting(
        False, "class-conditional networks (dcgan, wgan-gp and sngan); the data must have labels"
    )
    loss: Any = _setting(
        "non-saturating",
        "adversarial loss",
        [
            *("minimax", "non-saturating", "logistic", "wasserstein", "hinge", "least-squares"),
            *("relativistic-pairing", "relativistic-average"),
        ],
        code=True,
    )
    real_label: float = _setting(
        1.0, "label smoothing: target for real images, such as 0.9", Range(0.5, 1, above_low=True)
    )
    fake_label: float = _setting(
        0.0, "label smoothing: target for generated images, such as 0.1", Range(0, 0.5, below_high=True)
    )
    regularizer: Any = _setting(
        "none",
        "gradient penalty of the discriminator, which must not have batch normalization",
        ["none", "wgan-gp", "wgan-gp-one-sided", "r1", "r2", "dragan"],
        code=True,
    )
    regularizer_weight: Schedule = _setting(
        10.0,
        "lambda of wgan-gp and dragan, gamma of r1 and r2 (gamma / 2 times the square), or cosine(START, END, STEPS)",
        Range(0, above_low=True),
        scheduled=True,
    )
    regularizer_interval: int = _setting(
        1, "lazy regularization: discriminator updates per penalty, whose weight is multiplied by as many", Range(1)
    )
    regularizers: tuple[tuple[Any, Schedule, int], ...] = _setting(
        (), "several penalties, each a table [[regularizers]] of --config with name, weight and interval", code=True
    )
    spectral_norm: bool = _setting(False, "spectral normalization of the discriminator's weights")
    steps: int = _setting(2000, "steps to train in all; a step updates the generator once", Range(1))
    batch_size: int = _setting(64, "images in a batch, of all ranks together; each update takes one", Range(2, 2**20))
    batch_sizes: str = _setting(
        "", "batch sizes of single resolutions, such as '8:256, 16:128'; batch_size at the others", _BY_RESOLUTION
    )
    discriminator_steps: int = _setting(
        1, "updates of the discriminator in a step, each on a batch of its own", Range(1, 1000)
    )
    lr: Schedule = _setting(
        2e-4,
        "learning rate of both Adam optimizers, or cosine(START, END, STEPS)",
        Range(0, 1, above_low=True),
        scheduled=True,
    )
    lrs: str = _setting(
        "", "learning rates of single resolutions, such as '128:0.0015, 256:0.002'; lr at the others", _BY_RESOLUTION
    )
    generator_lr: Schedule = _setting(0.0, "learning rate of the generator; 0 for lr", Range(0, 1), scheduled=True)
    discriminator_lr: Schedule = _setting(
        0.0, "learning rate of the discriminator; 0 for lr", Range(0, 1), scheduled=True
    )
    beta1: float = _setting(0.5, "Adam's decay of the mean gradient", Range(0, 1, below_high=True))
    beta2: Schedule = _setting(
        0.999,
        "Adam's decay of the mean squared gradient, or cosine(START, END, STEPS)",
        Range(0, 1, below_high=True),
        scheduled=True,
    )
    ema_decay: float = _setting(
        0.999,
        "decay of the generator's EMA per step",
        Range(0, 1, below_high=True),
    )
    ema_ramp_up: float = _setting(
        0.0,
        "EMA ramp-up: half-life as a share of the steps so far, at most, such as 0.05; 0 for a decay of at most "
        "(1 + t) / (10 + t) at step t",
        Range(0, 1),
    )
    ema_half_life: Schedule = _setting(
        0.0,
        "EMA half-life in steps, or cosine(START, END, STEPS), in place of ema_decay and ema_ramp_up; 0 for these",
        Range(0),
        scheduled=True,
    )
    seed: int = _setting(0, "seed of all random numbers in training", Range(0, 2**63 - 1))
    engine: str = _setting(
        "auto",
        "how steps run: eager, graph (CUDA graphs of whole steps), compiled (torch.compile, checked against eager), or "
        "auto (graph on one GPU, else eager)",
        re.compile("auto|eager|graph|compiled"),
    )
    precision: str = _setting(
        "float32",
        "what the networks compute in: float32, bfloat16 or float16 (torch's autocast), or float64",
        re.compile("float64|float32|bfloat16|float16"),
    )
    tf32: bool = _setting(True, "round the factors of float32 products to 10 bits on NVIDIA GPUs, where that is faster")
    channels_last: bool = _setting(False, "keep the channels of a pixel side by side in memory")
    accumulate: int = _setting(
        1, "gradient accumulation: micro-batches per batch, for batches that do not fit into memory", Range(1, 2**20)
    )
    device: str = _setting(
        "auto", "auto (a GPU where there is one), cpu, cuda or cuda:INDEX", re.compile(r"auto|cpu|cuda(:\d{1,4})?")
    )
    log_every: int = _setting(50, "steps between reports of the losses; the last step is reported too", Range(1))
    sample_every: int = _setting(500, "steps between sample grids; the last step has one too", Range(1))
    checkpoint_every: int = _setting(500, "steps between checkpoints; the last step has one too", Range(1))
    evaluate_every: int = _setting(
        0, "steps between measurements of the FID of the generator's EMA, a multiple of log_every; 0 for none", Range(0)
    )
    evaluate_count: int = _setting(1000, "generated images, and real ones at most, that the FID is of", Range(2))
    evaluate_features: str = _setting(
        "auto",
        "what the FID compares: digits, points, inception or auto (those of the bundled data)",
        re.compile("auto|digits|points|inception"),
    )
    # Three: the latest, the one before in case the latest is damaged, and another for damage found late.
    keep_checkpoints: int = _setting(
        3, "how many of the latest checkpoints stay, besides that of the best FID; 0 for all", Range(0)
    )
    keep_every: int = _setting(0, "checkpoints of steps that this divides stay, however old; 0 for none", Range(0))
    wandb: str = _setting("", "project on Weights & Biases to log to, beside TensorBoard; empty for none")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            # The class is frozen, but conversions such as from an integer to a float are stored.
            object.__setattr__(self, f.name, _checked(f, getattr(self, f.name)))

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any], *, source: str = "") -> Self:
        """Makes a config from names and values of TOML's types; absent settings take their defaults. Errors name the
        ``source`` of the settings."""
        check_names(settings, source=source)
        return cls(**settings)

    def as_plain(self) -> dict[str, Any]:
        """The settings by name, as JSON types; code is replaced by its name in angle brackets."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @property
    def penalties(self) -> tuple[tuple[Any, Schedule, int], ...]:
        """Name or function, weight and interval of each penalty: first ``regularizer``, then ``regularizers``."""
        first = self.regularizer, self.regularizer_weight, self.regularizer_interval
        return self.regularizers if self.regularizer == "none" else (first, *self.regularizers)


def check_names(settings: Mapping[str, Any], *, source: str = "") -> None:
    """Refuses unknown setting names, suggesting the nearest valid one."""
    for name in settings:
        _field(name, source)


def parse_assignment(assignment: str) -> tuple[str, Any]:
    """Reads ``key=value`` as the type of the setting ``key``; text is written without quotes."""
    name, equals, text = assignment.partition("=")
    name = name.strip()
    if not equals:
        raise SettingsError(f"--set takes key=value, not {assignment!r}")
    f = _field(name, "--set")
    kind = type(f.default)
    if kind is str:
        return name, text
    try:
        return name, _BOOLEANS[text] if kind is bool else kind(text)
    except (ValueError, KeyError):
        if f.metadata["scheduled"] and text.startswith("cosine("):
            return name, text
        raise SettingsError(f"setting {name!r} is {text!r}, expected {_expected(f)}") from None


def load_settings(path: Path) -> dict[str, Any]:
    """Reads a TOML file of settings; checks names, but not values."""
    try:
        # Editors on Windows may begin a file with a byte order mark.
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"settings file {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"settings file {str(path)!r} is not UTF-8 text; expected TOML, which is") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"settings file {str(path)!r} is not valid TOML: {error}") from None
    check_names(settings, source=str(path))
    return settings


def to_toml(config: TrainingConfig) -> str:
    """Writes a config as TOML. :func:`load_settings` reads it back unchanged, except for code, of which TOML holds only
    the name."""
    values = config.as_plain()
    penalties = values.pop("regularizers")
    lines = [f"{name} = {_toml_value(value)}\n" for name, value in values.items()]
    for penalty in penalties:
        lines.append("\n[[regularizers]]\n")
        lines += [f"{name} = {_toml_value(value)}\n" for name, value in zip(_OF_PENALTY, penalty, strict=True)]
    return "".join(lines)


def at_step(value: Schedule, step: int) -> float:
    """The value of a setting, which may be a schedule, after ``step`` steps."""
    if isinstance(value, str):
        start, end, steps = (float(number) for number in _COSINE.fullmatch(value).groups())
        return end + (start - end) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2
    return float(value(step)) if callable(value) else value


def is_scheduled(value: Schedule) -> bool:
    """Whether a setting changes from step to step."""
    return not isinstance(value, int | float)


def preset_names() -> list[str]:
    """Names of the presets: the TOML files in ``fastgan/training/presets``."""
    return sorted(path.stem for path in _PRESETS.glob("*.toml"))


def load_preset(name: str) -> dict[str, Any]:
    """Reads the settings of a preset."""
    names = preset_names()
    if name not in names:
        raise SettingsError(unknown("preset", name, names))
    return load_settings(_PRESETS / f"{name}.toml")


def describe_settings(config: TrainingConfig) -> list[tuple[str, str, str]]:
    """For each setting, its name, its value as TOML, and its help with the valid range."""
    rows = []
    for f in dataclasses.fields(config):
        valid = f.metadata["valid"]
        limits = f" ({valid})" if isinstance(valid, Range) else ""
        if isinstance(valid, list):
            limits = f"; one of {', '.join(valid)}"
        rows.append((f.name, _toml_value(_plain(getattr(config, f.name))), f.metadata["help"] + limits))
    return rows


def _field(name: str, source: str) -> dataclasses.Field[Any]:
    known = {f.name: f for f in dataclasses.fields(TrainingConfig)}
    if name not in known:
        raise SettingsError(unknown("setting", name, known, f" in {source}" if source else ""))
    return known[name]


def _checked(f: dataclasses.Field[Any], value: Any) -> Any:
    valid, kind = f.metadata["valid"], type(f.default)
    scheduled, code = f.metadata["scheduled"], f.metadata["code"]
    if isinstance(value, str) and (scheduled or code) and _OF_A_SCRIPT.fullmatch(value):
        raise SettingsError(
            f"setting {f.name!r} is {value}, which only the script that began the run has; run it again"
        )
    if kind is tuple:
        return _checked_penalties(value)
    if (scheduled and callable(value)) or (code and not isinstance(value, str | int | float | None)):
        return value
    if scheduled and isinstance(value, str):
        match = _COSINE.fullmatch(value)
        try:
            ok = match is not None and int(match[3]) > 0 and all(valid.includes(float(match[i])) for i in (1, 2))
        except ValueError:
            ok = False
        if not ok:
            raise SettingsError(
                f"setting {f.name!r} is {value!r}, expected {_expected(f)}, or 'cosine(START, END, STEPS)' of such"
            )
        return value
    # To isinstance a bool is an int, so types are compared; an integer is valid for a float.
    ok = type(value) is kind or (kind is float and type(value) is int)
    if ok and isinstance(valid, list):
        if value not in valid:
            raise SettingsError(unknown(f.name, value, valid))
        return value
    if ok and isinstance(valid, Range):
        ok = valid.includes(value)
    elif ok and kind is str:
        ok = not _HALF_CHARACTER.search(value) and (valid is None or valid.fullmatch(value) is not None)
    if not ok:
        raise SettingsError(f"setting {f.name!r} is {value!r}, expected {_expected(f)}")
    return kind(value)


def _checked_penalties(entries: Any) -> tuple[tuple[Any, Schedule, int], ...]:
    """Penalties as (name or function, weight, interval), read from such tuples or from TOML tables."""
    checked = []
    for entry in entries if isinstance(entries, list | tuple) else [entries]:
        values = entry
        if isinstance(entry, Mapping) and "name" in entry and entry.keys() <= _OF_PENALTY.keys():
            values = [entry.get(name, f.default) for name, f in _OF_PENALTY.items()]
        if not isinstance(values, list | tuple) or not 1 <= len(values) <= 3:
            raise SettingsError(
                f"setting 'regularizers' has {entry!r}, expected (name or function, weight, interval), in TOML a table "
                "[[regularizers]] with name, weight and interval"
            )
        fields = list(_OF_PENALTY.values())
        values = [*values, *(f.default for f in fields[len(values) :])]
        checked.append(tuple(_checked(f, value) for f, value in zip(fields, values, strict=True)))
    return tuple(checked)


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int | float):
        return value
    if (isinstance(value, tuple) and not all(map(callable, value))) or value == ():
        return [_plain(part) for part in value]
    parts = value if isinstance(value, tuple) else (value,)
    return f"<{', '.join(getattr(part, '__name__', type(part).__name__).strip('<>') for part in parts)}>"


def _expected(f: dataclasses.Field[Any]) -> str:
    valid = f.metadata["valid"]
    kind = {int: "an integer", float: "a number", str: "text", bool: "true or false", tuple: "tables in a TOML file"}[
        type(f.default)
    ]
    if isinstance(valid, re.Pattern):
        return str(f.metadata["help"])
    return kind if valid is None else f"{kind} {valid}"


def _toml_value(value: str | int | float | bool | list[Any]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # TOML has the escapes of JSON, but also requires one for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


# The columns of a [[regularizers]] table are checked like the settings of a single regularizer.
_OF_PENALTY = {
    "name": _field("regularizer", ""),
    "weight": _field("regularizer_weight", ""),
    "interval": _field("regularizer_interval", ""),
}
