"""Training as tutorials write it, and the same loop with everything that torch offers: what the engine is held to.

Both train the networks of an engine that has just been made, by its loss and penalty, in its place: they draw from the
same generators in the same order, so that all of it comes out equal but for rounding. The networks are the engine's own
on the plain-torch references. Whatever favours these loops where tutorials differ is done: images are batched by one
index into a tensor of floats and not by the samples of a DataLoader, and no training health is followed.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.steps.step import Setting
from fastgan.data import normalize
from fastgan.training.engine import Engine

Labels = tuple[Tensor, ...]


class PlainLoop:
    """Adam as torch makes it, float32 as torch computes it, each batch copied from the host, each loss read at once.

    Args:
        engine: eager, and no step taken.
        images: uint8 [N, C, H, W] on the host, and the class numbers that a conditional engine learns from.

    Attributes:
        gradients: of the discriminator, before the last of its updates; the generator's step adds to the parameters'.
    """

    def __init__(self, engine: Engine, images: Tensor, labels: Tensor | None) -> None:
        self.device, self.random, self.data_random = engine.device, engine.random, engine.data_random
        self.generator, self.discriminator = engine.generator, engine.discriminator
        self.config, self.loss = engine.config, engine.objective.loss
        self.regularizer, self.weight = engine.objective.regularizer, engine.objective.weight
        self.generator_optimizer = self._adam(self.generator, engine.stage.generator_lr)
        self.discriminator_optimizer = self._adam(self.discriminator, engine.stage.discriminator_lr)
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.images, self.labels = normalize(images), labels
        self.updates = 0
        self.gradients: tuple[Tensor, ...] = ()
        # Of the discriminator's loss, the generator's, and the penalty where there is one.
        self._sums = [0.0] * len(engine.loss_sums)

    def _adam(self, network: torch.nn.Module, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=lr, betas=(self.config.beta1, self.config.beta2))

    def loss_sums(self) -> Tensor:
        """As those of an engine."""
        return torch.tensor(self._sums, device=self.device)

    def step(self, *, looked_at: bool) -> None:
        """Trains the discriminator as often as the settings say, then the generator.

        Args:
            looked_at: whether ``gradients`` are wanted.
        """
        with torch_defaults(self.device):
            for _ in range(self.config.discriminator_steps):
                real, labels = self._batch()
                latents = self._latents()
                alpha = self._alpha() if self._penalised() else None
                fake = self.generator(latents, *labels)
                self.discriminator_optimizer.zero_grad()
                real_logits, fake_logits = (self.discriminator(x, *labels) for x in (real, fake.detach()))
                loss = self.loss.discriminator(real_logits, fake_logits)
                total = loss
                if alpha is not None:
                    penalty = self._penalty(real, fake.detach(), alpha, labels)
                    total = loss + penalty
                total.backward()
                if looked_at:
                    self.gradients = gradients_of(self.discriminator)
                self.discriminator_optimizer.step()
                self.updates += 1
                self._sums[0] += loss.item()
                if alpha is not None:
                    self._sums[2] += penalty.item()
            self.generator_optimizer.zero_grad()
            loss = self.loss.generator(self.discriminator(fake, *labels), None)
            loss.backward()
            self.generator_optimizer.step()
            self._sums[1] += loss.item()
            self._average()

    def _penalised(self) -> bool:
        return self.regularizer is not None and self.updates % self.config.regularizer_interval == 0

    def _batch(self) -> tuple[Tensor, Labels]:
        # Drawn where the engine draws; the loss has just been read, so there is nothing to wait for.
        chosen = self._chosen().cpu()
        real = self.images[chosen].to(self.device)
        return real, () if self.labels is None else (self.labels[chosen].to(self.device),)

    def _chosen(self) -> Tensor:
        size = (self.config.batch_size,)
        return torch.randint(len(self.images), size, device=self.device, generator=self.data_random)

    def _latents(self) -> Tensor:
        shape = self.config.batch_size, self.config.latent_dim
        return torch.randn(shape, device=self.device, generator=self.random)

    def _alpha(self) -> Tensor:
        return torch.rand((self.config.batch_size, 1, 1, 1), device=self.device, generator=self.random)

    def _penalty(self, real: Tensor, fake: Tensor, alpha: Tensor, labels: Labels) -> Tensor:
        return self.regularizer(lambda x: self.discriminator(x, *labels), real, fake, self.weight, alpha=alpha)

    @torch.no_grad()
    def _average(self) -> None:
        for average, weight in zip(self.averaged.parameters(), self.generator.parameters(), strict=True):
            average.mul_(self.config.ema_decay).add_(weight, alpha=1 - self.config.ema_decay)


class TunedLoop(PlainLoop):
    """The same, with torch.compile, autocast in bfloat16, channels-last, fused Adam, TF32, and no wait for the device.

    What a penalty is of is never compiled: torch cannot differentiate a compiled backward pass again. The penalty takes
    the discriminator as it is; what is compiled beside it are its two calls for the loss, with the same weights. Random
    numbers are those that eager torch draws, as in the engine's compiled form, so that the results can be compared.
    """

    def __init__(self, engine: Engine, images: Tensor, labels: Tensor | None, setting: Setting) -> None:
        for network in (engine.generator, engine.discriminator):
            network.to(memory_format=torch.channels_last)
        super().__init__(engine, images, labels)
        self.images = images.to(self.device)
        self.labels = None if labels is None else labels.to(self.device)
        self.averaged = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema_decay))
        self._sums = torch.zeros(len(self._sums), device=self.device)
        self._setting = setting
        self._compiled_generator, self._compiled_discriminator = (
            _compiled(network, setting.compile_backend) for network in (self.generator, self.discriminator)
        )

    def _adam(self, network: torch.nn.Module, lr: float) -> torch.optim.Adam:
        betas = self.config.beta1, self.config.beta2
        return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, fused=True)

    def loss_sums(self) -> Tensor:
        return self._sums

    def step(self, *, looked_at: bool) -> None:
        for _ in range(self.config.discriminator_steps):
            real, labels = self._batch()
            latents = self._latents()
            alpha = self._alpha() if self._penalised() else None
            with self._setting.autocast():
                fake = self._compiled_generator(latents, *labels)
            fake = fake.float()
            self.discriminator_optimizer.zero_grad()
            loss = self.loss.discriminator(*(self._logits(x, labels) for x in (real, fake.detach())))
            total = loss
            if alpha is not None:
                with self._setting.autocast():
                    penalty = self._penalty(real, fake.detach(), alpha, labels)
                total = loss + penalty
                self._sums[2] += penalty.detach()
            total.backward()
            if looked_at:
                self.gradients = gradients_of(self.discriminator)
            self.discriminator_optimizer.step()
            self.updates += 1
            self._sums[0] += loss.detach()
        self.discriminator.requires_grad_(False)
        self.generator_optimizer.zero_grad()
        loss = self.loss.generator(self._logits(fake, labels), None)
        loss.backward()
        self.generator_optimizer.step()
        self.discriminator.requires_grad_(True)
        self._sums[1] += loss.detach()
        self._average()

    def _logits(self, images: Tensor, labels: Labels) -> Tensor:
        with self._setting.autocast():
            logits = self._compiled_discriminator(images, *labels)
        return logits.float()

    def _batch(self) -> tuple[Tensor, Labels]:
        chosen = self._chosen()
        real = normalize(self.images[chosen]).contiguous(memory_format=torch.channels_last)
        return real, () if self.labels is None else (self.labels[chosen],)

    def _average(self) -> None:
        self.averaged.update_parameters(self.generator)


def gradients_of(network: torch.nn.Module) -> tuple[Tensor, ...]:
    """Copies; layers of resolutions that have been grown out of have none."""
    return tuple(p.grad.clone() for p in network.parameters() if p.grad is not None)


def _compiled(network: torch.nn.Module, backend: str) -> Callable[..., Tensor]:
    options = {"options": {"fallback_random": True}} if backend == "inductor" else {}
    return torch.compile(network, backend=backend, dynamic=False, **options)


@contextmanager
def torch_defaults(device: torch.device) -> Iterator[None]:
    """float32 products as torch makes them where nobody has asked for TF32: convolutions alone round their factors.

    Engines set this for the whole process, and those beside the loop want it as they left it.
    """
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = False, True
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
