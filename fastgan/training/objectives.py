"""What the two networks are trained to do: losses and penalties as functions of a batch.

``DistributedDataParallel`` and ``torch.compile`` can take each of them whole, the inner derivative of a penalty too.
"""

from collections.abc import Callable

from torch import Tensor, nn

from fastgan.losses import Loss
from fastgan.regularizers import Regularizer
from fastgan.training.precision import Precision

Augment = Callable[[Tensor], Tensor]


class DiscriminatorObjective(nn.Module):
    """The discriminator's loss, and its penalty as a term of its own.

    Two terms, because each has a backward pass of its own: the memory of one is free before the other begins.

    Args:
        discriminator: maps images, and labels in a conditional run, to logits [N].
        loss: of the logits.
        regularizer: the penalty, or None.
        weight: of the penalty.
        augment: what happens to all images before the discriminator sees them.
        precision: of the discriminator.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        loss: Loss,
        regularizer: Regularizer | None,
        weight: float,
        augment: Augment,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.loss = loss
        self.regularizer = regularizer
        self.weight = weight
        self._augment = augment
        self._precision = precision

    def forward(self, term: str, *batch: Tensor) -> tuple[Tensor, ...]:
        """The ``loss`` or the ``penalty``, as DDP calls it."""
        return self.of_loss(*batch) if term == "loss" else self.of_penalty(*batch)

    def of_loss(self, real: Tensor, fake: Tensor, *labels: Tensor) -> tuple[Tensor, ...]:
        """The loss, and the logits of real and of generated images [N] without their graph."""
        real_logits, fake_logits = self.logits(real, *labels), self.logits(fake, *labels)
        return self.loss.discriminator(real_logits, fake_logits), real_logits.detach(), fake_logits.detach()

    def of_penalty(self, real: Tensor, fake: Tensor, alpha: Tensor, *labels: Tensor) -> tuple[Tensor, ...]:
        """The penalty; ``alpha`` [N, 1, 1, 1] is the share of the real image in each point between two."""
        assert self.regularizer is not None
        scaler = self._precision.discriminator_scaler if self._precision.scales else None
        with self._precision.autocast():
            penalty = self.regularizer(
                lambda images: self.discriminator(self._augment(images), *labels),
                *(real, fake, self.weight),
                alpha=alpha,
                scaler=scaler,
            )
        return (penalty,)

    def logits(self, images: Tensor, *labels: Tensor) -> Tensor:
        with self._precision.autocast():
            logits = self.discriminator(self._augment(images), *labels)
        return logits.to(self._precision.dtype)


class GeneratorObjective:
    """The generator's loss, which passes through the discriminator.

    Args:
        generator: maps latents [N, latent_dim], and labels in a conditional run, to images; DDP's wrapper or itself.
        of_discriminator: whose loss, discriminator and augmentation the generator works against.
        precision: of the generator.
    """

    def __init__(self, generator: nn.Module, of_discriminator: DiscriminatorObjective, precision: Precision) -> None:
        self.generator = generator
        self._of_discriminator = of_discriminator
        self._precision = precision

    def images(self, latents: Tensor, *labels: Tensor) -> Tensor:
        """Generated images in [-1, 1], in the type that real ones have."""
        with self._precision.autocast():
            images = self.generator(latents, *labels)
        return images.to(self._precision.dtype)

    def of_images(self, fake: Tensor, real: Tensor, *labels: Tensor) -> tuple[Tensor, ...]:
        """The loss of generated images, and these without their graph.

        The real ones matter where the loss is relativistic.
        """
        against = self._of_discriminator
        real_logits = against.logits(real, *labels) if against.loss.relativistic else None
        return against.loss.generator(against.logits(fake, *labels), real_logits), fake.detach()

    def of_latents(self, latents: Tensor, real: Tensor, *labels: Tensor) -> tuple[Tensor, ...]:
        """The loss of the images of latents, and these images without their graph."""
        return self.of_images(self.images(latents, *labels), real, *labels)


def no_augmentation(images: Tensor) -> Tensor:
    """The images as they are."""
    return images
