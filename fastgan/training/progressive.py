"""Progressive growing: which resolution a step trains, how far it has faded in, and with what batch and rate.

Karras et al. 2018, "Progressive Growing of GANs" (https://arxiv.org/abs/1710.10196, section 2 and appendix A), and
Karras et al. 2019, StyleGAN (https://arxiv.org/abs/1812.04948, appendix C).
"""

from dataclasses import dataclass, replace
from typing import Self

from fastgan.training.config import Range, Schedule, SettingsError, TrainingConfig

_BATCH_SIZES = Range(2, 2**20)
_LRS = Range(0, 1, above_low=True)


@dataclass(frozen=True)
class Stage:
    """What a step trains.

    Attributes:
        resolution: of the images that the networks make and see.
        fade: from above 0 to 1, how much of this resolution is blended into the one below it; 1 for all.
        batch_size: images in a batch.
        generator_lr, discriminator_lr: of the two optimizers.
    """

    resolution: int
    fade: float
    batch_size: int
    generator_lr: Schedule
    discriminator_lr: Schedule


@dataclass(frozen=True)
class GrowingSchedule:
    """The stage of every step: each resolution fades in during ``fade_steps`` steps and stays for ``stable_steps``.

    The first has no fade, and the last stays to the end of the run. It is a function of the number of steps only, so a
    run that is resumed in the middle of a fade continues there.

    Attributes:
        resolutions: from the first to that of the images, each twice the one before; one where nothing grows.
        stable_steps, fade_steps: see above.
        stages: the stage of each resolution once it has faded in.
    """

    resolutions: tuple[int, ...]
    stable_steps: int
    fade_steps: int
    stages: dict[int, Stage]

    @classmethod
    def from_config(cls, config: TrainingConfig) -> Self:
        """The schedule that the settings describe.

        Raises:
            SettingsError: where ``grow_from`` is not the resolution halved some times, or ``batch_sizes`` or ``lrs``
                cannot be used; one sentence.
        """
        resolutions = _resolutions(config)
        if config.lrs and (config.generator_lr or config.discriminator_lr):
            raise SettingsError(
                "lrs gives both networks one learning rate, so it excludes generator_lr and discriminator_lr"
            )
        batch_sizes = _by_resolution("batch_sizes", config.batch_sizes, int, _BATCH_SIZES, resolutions)
        lrs = _by_resolution("lrs", config.lrs, float, _LRS, resolutions)
        stages = {}
        for resolution in resolutions:
            stages[resolution] = Stage(
                resolution,
                1.0,
                batch_sizes.get(resolution, config.batch_size),
                lrs.get(resolution, config.generator_lr or config.lr),
                lrs.get(resolution, config.discriminator_lr or config.lr),
            )
        return cls(resolutions, config.grow_stable_steps, config.grow_fade_steps, stages)

    @property
    def growing_steps(self) -> int:
        """Steps until the last resolution has faded in; 0 where nothing grows."""
        return (len(self.resolutions) - 1) * (self.stable_steps + self.fade_steps)

    def at(self, step: int) -> Stage:
        """The stage of the step that comes after ``step`` steps, from 0."""
        since_first, period = step - self.stable_steps, self.fade_steps + self.stable_steps
        index = 0 if since_first < 0 else 1 + since_first // period
        if index == 0 or index >= len(self.resolutions):
            return self.stages[self.resolutions[min(index, len(self.resolutions) - 1)]]
        stage = self.stages[self.resolutions[index]]
        faded = since_first % period + 1
        if faded > self.fade_steps:
            return stage
        return replace(stage, fade=faded / (self.fade_steps + 1))


def _resolutions(config: TrainingConfig) -> tuple[int, ...]:
    first, last = config.grow_from or config.resolution, config.resolution
    resolutions = [first]
    while resolutions[-1] < last:
        resolutions.append(2 * resolutions[-1])
    if resolutions[-1] != last:
        raise SettingsError(
            f"grow_from is {first}, which does not double to the resolution {last}; expected {last} halved some times"
        )
    return tuple(resolutions)


def _by_resolution(
    name: str, text: str, kind: type[int] | type[float], valid: Range, resolutions: tuple[int, ...]
) -> dict[int, int | float]:
    numbers: dict[int, int | float] = {}
    for entry in filter(None, text.split(",")):
        resolution, _, number = entry.partition(":")
        if int(resolution) not in resolutions:
            raise SettingsError(
                f"{name} names the resolution {int(resolution)}, and the run has {', '.join(map(str, resolutions))}"
            )
        if int(resolution) in numbers:
            raise SettingsError(f"{name} names the resolution {int(resolution)} twice")
        try:
            numbers[int(resolution)] = kind(number)
        except ValueError:
            ok = False
        else:
            ok = valid.includes(numbers[int(resolution)])
        if not ok:
            what = "an integer" if kind is int else "a number"
            raise SettingsError(f"{name} has {number!r} at resolution {int(resolution)}, expected {what} {valid}")
    return numbers
