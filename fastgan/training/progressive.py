"""Progressive growing: resolution, fade, batch size and learning rates of each step.

Karras et al. 2018, "Progressive Growing of GANs" (https://arxiv.org/abs/1710.10196, section 2 and appendix A), and
Karras et al. 2019, StyleGAN (https://arxiv.org/abs/1812.04948, appendix C).
"""

from dataclasses import dataclass, replace

from fastgan.training.config import Range, Schedule, SettingsError, TrainingConfig

_BATCH_SIZES = Range(2, 2**20)
_LRS = Range(0, 1, above_low=True)


@dataclass(frozen=True)
class Stage:
    """Resolution, batch size and learning rates of a step.

    Attributes:
        resolution: resolution of the real and generated images.
        fade: weight of this resolution in the blend with the one below, in (0, 1]; 1 for no blend.
        batch_size: batch size of all ranks together.
        generator_lr, discriminator_lr: learning rates of the two optimizers.
    """

    resolution: int
    fade: float
    batch_size: int
    generator_lr: Schedule
    discriminator_lr: Schedule


class GrowingSchedule:
    """The stage of every step: each resolution fades in during ``grow_fade_steps`` and stays for ``grow_stable_steps``.

    The first resolution does not fade in, and the last stays to the end of the run. The stage depends only on the
    number of steps, so a run resumed in the middle of a fade continues there.

    Attributes:
        resolutions: resolutions from the first to the last, each twice the one before; a single one without growing.
        stages: for each resolution, its stage after the fade.

    Raises:
        SettingsError: where ``grow_from`` is not the resolution divided by a power of two, or ``batch_sizes`` or
            ``lrs`` is invalid; one sentence.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.stable_steps, self.fade_steps = config.grow_stable_steps, config.grow_fade_steps
        first, last = config.grow_from or config.resolution, config.resolution
        self.resolutions = [first]
        while self.resolutions[-1] < last:
            self.resolutions.append(2 * self.resolutions[-1])
        if self.resolutions[-1] != last:
            raise SettingsError(
                f"grow_from is {first}, which does not double to the resolution {last}; expected {last} halved some "
                "times"
            )
        if config.lrs and (config.generator_lr or config.discriminator_lr):
            raise SettingsError(
                "lrs gives both networks one learning rate, so it excludes generator_lr and discriminator_lr"
            )
        batch_sizes = _by_resolution("batch_sizes", config.batch_sizes, int, _BATCH_SIZES, self.resolutions)
        lrs = _by_resolution("lrs", config.lrs, float, _LRS, self.resolutions)
        self.stages = {
            resolution: Stage(
                resolution,
                1.0,
                batch_sizes.get(resolution, config.batch_size),
                lrs.get(resolution, config.generator_lr or config.lr),
                lrs.get(resolution, config.discriminator_lr or config.lr),
            )
            for resolution in self.resolutions
        }

    @property
    def growing_steps(self) -> int:
        """Number of steps until the last resolution has faded in; 0 without growing."""
        return (len(self.resolutions) - 1) * (self.stable_steps + self.fade_steps)

    def at(self, step: int) -> Stage:
        """The stage of step ``step``, counted from 0."""
        since_first, period = step - self.stable_steps, self.fade_steps + self.stable_steps
        index = 0 if since_first < 0 else 1 + since_first // period
        if index == 0 or index >= len(self.resolutions):
            return self.stages[self.resolutions[min(index, len(self.resolutions) - 1)]]
        stage = self.stages[self.resolutions[index]]
        faded = since_first % period + 1
        if faded > self.fade_steps:
            return stage
        return replace(stage, fade=faded / (self.fade_steps + 1))


def _by_resolution(
    name: str, text: str, kind: type[int] | type[float], valid: Range, resolutions: list[int]
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
