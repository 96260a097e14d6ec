"""The networks, optimizers and random state of a run, and one step of training."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.data import normalize
from fastgan.losses import get_loss
from fastgan.models import build_networks
from fastgan.nn import spectral_norm_
from fastgan.nn.spectral_norm import SpectralNorm
from fastgan.regularizers import Regularizer, find_batch_norm, get_regularizer
from fastgan.training.averaging import AveragedNetwork
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.growth import GrowthSchedule, Stage, at_stage
from fastgan.training.health import History
from fastgan.training.non_finite import FiniteWatch, NonFinite, first_non_finite
from fastgan.training.statistics import HealthStatistics, Reading


class Engine:
    """Everything that a step reads and writes.

    The step itself never waits for the device: losses add up there until :meth:`mean_losses` reads them.

    Args:
        config: the settings.
        images: the data set, uint8 [N, C, H, W]; kept on the device, sampled there with replacement.
        device: where to train.
        labels: class numbers of the images, int64 [N] from 0, or None; a conditional run keeps them on the device too.

    Raises:
        SettingsError: for a model, loss or regularizer that is not there, a resolution that the model does not have,
            settings that do not go together, or labels that a conditional run cannot learn from.
    """

    def __init__(
        self, config: TrainingConfig, images: Tensor, device: torch.device, labels: Tensor | None = None
    ) -> None:
        # Weights and dropout draw from torch's global state; data and latents from a generator on the device.
        torch.manual_seed(config.seed)
        self.architecture = {
            "model": config.model,
            "resolution": images.shape[-1],
            "num_channels": images.shape[1],
            "latent_dim": config.latent_dim,
            "base_channels": config.base_channels or None,
            **_options(config),
        }
        self.schedule = GrowthSchedule.of(config)
        if config.conditional:
            self.architecture["num_classes"] = _count_classes(labels, config.data)
        try:
            networks = build_networks(**self.architecture)
            self.loss = get_loss(config.loss, real_label=config.real_label, fake_label=config.fake_label)
            self.regularizer = _regularizer(config, networks.discriminator)
            if config.spectral_norm and not _has_spectral_norm(networks.discriminator):
                spectral_norm_(networks.discriminator)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        if len(self.schedule.resolutions) > 1 and not hasattr(networks.generator, "grow"):
            raise SettingsError(
                f"grow_from is {config.grow_from}, and the networks of model {config.model!r} do not grow"
            )
        self.config = config
        self.device = device
        self.images = images.to(device)
        self.labels = labels.to(device) if config.conditional and labels is not None else None
        self.generator = networks.generator.to(device)
        self.discriminator = networks.discriminator.to(device)
        self.averaged = AveragedNetwork(self.generator, config.ema_decay, config.ema_ramp_up)
        self.generator_optimizer = self._adam(self.generator)
        self.discriminator_optimizer = self._adam(self.discriminator)
        self.random = torch.Generator(device).manual_seed(config.seed)
        self.step_count = 0
        self.num_images = 0
        self._enter(self.schedule.at(0))
        # Of the discriminator's loss, the generator's, and the penalty where there is one.
        self.loss_sums = torch.zeros(3 if self.regularizer else 2, device=device)
        self.num_summed = 0
        self.statistics = HealthStatistics(self.generator, device)
        self.history = History()
        losses = ["discriminator_loss", "generator_loss", "penalty"][: len(self.loss_sums)]
        self._watch = FiniteWatch((losses, self.loss_sums), self.discriminator, self.generator)
        self._discriminator_parameters = list(self.discriminator.parameters())

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        betas = self.config.beta1, self.config.beta2
        return torch.optim.Adam(network.parameters(), betas=betas, fused=True)  # the rate is the stage's

    def step(self) -> None:
        """Trains the discriminator ``discriminator_steps`` times, each on fresh batches, then the generator once.

        The generator learns from the last batch that the discriminator has seen, and its average is updated.
        """
        stage = self.schedule.at(self.step_count)
        if stage != self.stage:
            self._enter(stage)
        num_updates = self.config.discriminator_steps
        self._watch.between_steps(self.step_count)
        for i in range(num_updates):
            # The fakes have the labels of the real images, so that a point between two has one.
            real, *labels = self._real_batch()
            with torch.set_grad_enabled(i == num_updates - 1):
                fake = self.generator(self._latents(), *labels)
            self.discriminator_optimizer.zero_grad()
            self._discriminator_phase(real, fake.detach(), *labels)
            # By the host's own count, which a checkpoint keeps.
            if self.regularizer and (self.step_count * num_updates + i) % self.config.regularizer_interval == 0:
                self._regularization_phase(self.regularizer, real, fake.detach(), *labels)
            self.discriminator_optimizer.step()
            self._watch.after_discriminator(self.step_count, i)
        self._generator_phase(real, fake, *labels)
        self.statistics.update(real, fake, *self._logits)

        self.step_count += 1
        self.num_images += stage.batch_size
        self.averaged.update(self.step_count)
        self.num_summed += 1

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        if len(self.schedule.resolutions) > 1:
            for network in (self.generator, self.discriminator, self.averaged.module):
                network.grow(stage.resolution, stage.fade)
        self.generator_optimizer.param_groups[0]["lr"] = stage.generator_lr
        self.discriminator_optimizer.param_groups[0]["lr"] = stage.discriminator_lr

    def _real_batch(self) -> tuple[Tensor, ...]:
        """Images, and in a conditional run their labels."""
        size = self.stage.batch_size
        chosen = torch.randint(len(self.images), (size,), device=self.device, generator=self.random)
        images = at_stage(normalize(self.images[chosen]), self.stage)
        return (images,) if self.labels is None else (images, self.labels[chosen])

    def _latents(self) -> Tensor:
        size = self.stage.batch_size
        return torch.randn(size, self.config.latent_dim, device=self.device, generator=self.random)

    def _discriminator_phase(self, real: Tensor, fake: Tensor, *labels: Tensor) -> None:
        """The gradient of the discriminator's loss."""
        real_logits, fake_logits = self.discriminator(real, *labels), self.discriminator(fake, *labels)
        self._logits = real_logits.detach(), fake_logits.detach()
        loss = self.loss.discriminator(real_logits, fake_logits)
        loss.backward()
        self.loss_sums[0] += loss.detach()

    def _regularization_phase(self, regularizer: Regularizer, real: Tensor, fake: Tensor, *labels: Tensor) -> None:
        """Adds the gradient of the penalty to that of the loss.

        Lazily, once in k updates with k times the weight, it has the same mean gradient (Karras et al. 2020, StyleGAN2,
        https://arxiv.org/abs/1912.04958, section 3.1 and appendix B). There the penalty has updates of its own beside
        those of the loss, for which Adam's settings are adapted; here one update takes both, and they stay.
        """
        weight = self.config.regularizer_weight * self.config.regularizer_interval
        penalty = regularizer(lambda images: self.discriminator(images, *labels), real, fake, weight)
        penalty.backward()
        self.loss_sums[2] += penalty.detach()

    def _generator_phase(self, real: Tensor, fake: Tensor, *labels: Tensor) -> None:
        """An update of the generator by its loss."""
        # The gradient passes through the discriminator, whose own weights need none now.
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(False)
        real_logits = self.discriminator(real, *labels) if self.loss.relativistic else None
        loss = self.loss.generator(self.discriminator(fake, *labels), real_logits)
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(True)
        self.loss_sums[1] += loss.detach()

    def mean_losses(self) -> dict[str, float]:
        """Means over the updates since :meth:`reset_losses`; waits for the device.

        The discriminator's loss is without the penalty, which is told beside it: its mean over all updates, those that
        a lazy interval leaves out included.
        """
        discriminator, generator, *penalty = (self.loss_sums / max(self.num_summed, 1)).tolist()
        updates = self.config.discriminator_steps
        means = {"discriminator_loss": discriminator / updates, "generator_loss": generator}
        return means | ({"penalty": penalty[0] / updates} if penalty else {})

    def health_figures(self, reading: Reading) -> dict[str, float]:
        """The figures of a reading by name, without what says nothing with this loss."""
        figures = dataclasses.asdict(reading)
        del figures["step"]
        if self.loss.balance() is None:
            del figures["d_real"], figures["d_fake"]
        return figures

    def reset_losses(self) -> None:
        self.loss_sums.zero_()
        self.num_summed = 0
        self.statistics.reset()

    def first_non_finite(self) -> NonFinite | None:
        """What of the losses since the last reset and the whole state was the first to be infinite or not a number.

        Waits for the device. What the step does not watch, such as averages and gradients, is looked at now.
        """
        self._watch.between_steps(self.step_count)
        if found := self._watch.first():
            return found
        everything = {f"{group}.{name}": t for group, members in self.tensors().items() for name, t in members.items()}
        for kind, network in (("discriminator", self.discriminator), ("generator", self.generator)):
            gradients = {f"gradient of {kind}.{name}": p.grad for name, p in network.named_parameters()}
            everything |= {name: gradient for name, gradient in gradients.items() if gradient is not None}
        name = first_non_finite(everything)
        return None if name is None else NonFinite(name, self.step_count)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The whole state in tensors, by file and name; the other half is :meth:`state`."""
        training: dict[str, Tensor] = {
            "loss_sums": self.loss_sums,
            "random.device": self.random.get_state(),
            "random.cpu": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            training["random.cuda"] = torch.cuda.get_rng_state(self.device)
        training |= {f"statistics.{name}": tensor for name, tensor in self.statistics.tensors().items()}
        for name, optimizer in self._optimizers().items():
            for index, values in optimizer.state_dict()["state"].items():
                for key, value in values.items():
                    training[f"{name}.{index}.{key}"] = value
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "averaged_generator": self.averaged.module.state_dict(),
            "training": training,
        }

    def state(self) -> dict[str, Any]:
        """What of the state is no tensor, as JSON types."""
        return {
            "architecture": self.architecture,
            "device": self.device.type,
            "growth": self.growth(),
            "history": self.history.to_json(),
            "num_images": self.num_images,
            "num_summed": self.num_summed,
            "statistics": self.statistics.state(),
            "step": self.step_count,
        }

    def growth(self) -> dict[str, Any] | None:
        """What the networks' ``grow`` was last called with; None where they do not grow."""
        if len(self.schedule.resolutions) == 1:
            return None
        return {"resolution": self.stage.resolution, "fade": self.stage.fade}

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Takes over what :meth:`tensors` and :meth:`state` gave.

        Raises:
            SettingsError: for a state of another architecture or kind of device; one sentence.
        """
        for key in self.architecture.keys() | state["architecture"].keys():
            saved, chosen = (architecture.get(key) for architecture in (state["architecture"], self.architecture))
            if saved != chosen:
                raise SettingsError(f"the checkpoint has {key} {saved!r}, the run {chosen!r}")
        if state["device"] != self.device.type:
            raise SettingsError(
                f"the checkpoint was written on {state['device']}, whose random state does not go on on "
                f"{self.device.type}; resume it with device {state['device']!r}"
            )
        self.generator.load_state_dict(tensors["generator"])
        self.discriminator.load_state_dict(tensors["discriminator"])
        self.averaged.module.load_state_dict(tensors["averaged_generator"])
        training = tensors["training"]
        for name, optimizer in self._optimizers().items():
            values: dict[int, dict[str, Tensor]] = {}
            for key, value in training.items():
                if key.startswith(f"{name}."):
                    _, index, entry = key.split(".")
                    values.setdefault(int(index), {})[entry] = value
            optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
        self.loss_sums.copy_(training["loss_sums"])
        self.num_summed = state["num_summed"]
        sums = {
            key.removeprefix("statistics."): value for key, value in training.items() if key.startswith("statistics.")
        }
        self.statistics.load(sums, state["statistics"])
        self.history = History.from_json(state["history"])
        self.step_count = state["step"]
        self.num_images = state["num_images"]
        self._enter(self.schedule.at(max(self.step_count - 1, 0)))
        self.random.set_state(training["random.device"])
        torch.set_rng_state(training["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(training["random.cuda"], self.device)

    def _optimizers(self) -> dict[str, torch.optim.Adam]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }


def _count_classes(labels: Tensor | None, data: str) -> int:
    """How many classes the labels of a data set tell apart.

    Raises:
        SettingsError: for data without labels, or with gaps between them: the networks would not learn a class that no
            image has, and one wrong label such as 10**9 would ask for as many embeddings.
    """
    if labels is None:
        raise SettingsError(f"conditional is true and the data {data!r} carries no labels; expected one for each image")
    found = labels.unique().tolist()
    if found != list(range(len(found))):
        raise SettingsError(
            f"conditional is true and the data {data!r} has {len(found)} different labels from {found[0]} to "
            f"{found[-1]}; expected class numbers from 0 without gaps"
        )
    return len(found)


def _regularizer(config: TrainingConfig, discriminator: nn.Module) -> Regularizer | None:
    regularizer = get_regularizer(config.regularizer)
    layer = find_batch_norm(discriminator)
    if regularizer is not None and layer is not None:
        raise SettingsError(
            f"regularizer {config.regularizer!r} cannot penalise the discriminator of model {config.model!r}, which "
            f"has batch normalisation ({layer}) and so couples the samples of a batch; choose another model, or "
            "regularizer 'none'"
        )
    return regularizer


def _options(config: TrainingConfig) -> dict[str, Any]:
    """Settings that only some models have; one that is left alone is not asked of them."""
    options = {"minibatch": config.minibatch, "style_mixing": config.style_mixing}
    return {name: value for name, value in options.items() if value not in ("none", 0)}


def _has_spectral_norm(network: nn.Module) -> bool:
    return any(isinstance(module, SpectralNorm) for module in network.modules())
