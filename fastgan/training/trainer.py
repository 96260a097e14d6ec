"""The trainer: networks, data, optimizers and the whole state of training, and what a step is on the host."""

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fastgan.data.gaussians import has_points
from fastgan.data.sources import ImageSource
from fastgan.errors import first_line
from fastgan.sampling import columns_by_class, draw_latents, labels_in_turn, render
from fastgan.seeds import Stream, seed_of
from fastgan.training.build import build_networks, build_objective, check_group_sizes, choose_mode
from fastgan.training.checkpoint import MISFITS, CheckpointError, load_tensors, misfit, require_layout
from fastgan.training.compiled import Compiled
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.cuda_graph import CudaRecorder, Graphs, Recorder
from fastgan.training.distributed import Distributed
from fastgan.training.ema import EMA
from fastgan.training.health import History
from fastgan.training.precision import Precision, laid_out_as
from fastgan.training.progressive import GrowingSchedule, Stage
from fastgan.training.statistics import NonFinite, Reading, first_non_finite
from fastgan.training.step import Eager, GanStep, Images, Mode, Plan

_NUM_SAMPLES = 64
_NUM_POINTS = 1000
_OF_OTHER_RANKS = re.compile(r"random\.(cpu|cuda)\.[1-9][0-9]*")


class Trainer:
    """Trains two networks on images. Steps never wait for the device: losses add up there until they are read.

    Args:
        generator, discriminator: the networks, on the CPU; see :class:`GanStep`.
        images: images, and the labels that a conditional run learns from.
        config: the settings.
        device: where to train.
        architecture: what :func:`fastgan.models.build_networks` was called with, as JSON types; checkpoints keep it.
        distributed: the processes that share the run; this process by default.
        recorder: records steps; CUDA graphs by default.
        compile_backend: backend of ``torch.compile``.

    Attributes:
        mode: how steps run: ``eager``, ``graph`` or ``compiled``; ``mode_reason`` says why.
        notes: what works otherwise than set, one sentence each.
        ema: moving average of the generator.

    Raises:
        SettingsError: for a loss or regularizer that does not exist, or settings that exclude each other.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        images: ImageSource,
        config: TrainingConfig,
        device: torch.device,
        *,
        architecture: dict[str, Any],
        distributed: Distributed | None = None,
        recorder: Recorder | None = None,
        compile_backend: str = "inductor",
    ) -> None:
        self.config, self.device, self.images, self.architecture = config, device, images, architecture
        self.distributed = distributed = distributed or Distributed()
        can_record = recorder is not None or device.type == "cuda"
        self.mode, self.mode_reason = choose_mode(config, device, distributed.world_size, can_record)
        self.schedule = GrowingSchedule.from_config(config)
        batch_sizes = [stage.batch_size for stage in self.schedule.stages.values()]
        for batch_size in batch_sizes:
            distributed.check_batch_size(batch_size, config.accumulate)
        self.notes = check_group_sizes(discriminator, batch_sizes, distributed.world_size * config.accumulate)
        loss, regularizer, augment = build_objective(config, discriminator, images.image_shape)

        self.precision = Precision(config, device)
        self.generator, self.discriminator = (
            distributed.sync_batch_norm(self.precision.prepare(network)) for network in (generator, discriminator)
        )
        self.ema = EMA(self.generator, config.ema_decay, config.ema_ramp_up)
        self.generator_optimizer = self._adam(self.generator)
        self.discriminator_optimizer = self._adam(self.discriminator)
        self.random = torch.Generator(device).manual_seed(seed_of(config.seed, Stream.LATENTS))
        self.data_random = torch.Generator(device).manual_seed(seed_of(config.seed, Stream.DATA))
        self.step_count = 0
        self.num_images = 0
        self.num_summed = 0
        self.history = History()

        mode: Mode = Eager()
        if self.mode == "compiled":
            networks = self.generator, self.discriminator
            mode = Compiled(networks, self.precision.rounding, backend=compile_backend)
        self.gan_step = GanStep(
            *(self.generator, self.discriminator, loss, regularizer, augment),
            optimizers=(self.generator_optimizer, self.discriminator_optimizer),
            ema=self.ema,
            precision=self.precision,
            random=self.random,
            distributed=distributed,
            mode=mode,
            config=config,
            # Images drawn on the device do not depend on the number of the update.
            draw_images=partial(self._draw_images, 0) if images.capturable else None,
            grows=len(self.schedule.resolutions) > 1,
        )
        self.statistics = self.gan_step.statistics
        self.loss_sums = self.gan_step.loss_sums
        self._graphs = None
        if self.mode == "graph":
            self._graphs = Graphs(self.gan_step, recorder or CudaRecorder(device, [self.random, self.data_random]))
        self._run_step = (self._graphs or self.gan_step).run
        self._enter(self.schedule.at(0))
        torch.manual_seed(seed_of(config.seed, Stream.NOISE, distributed.rank))

    @classmethod
    def from_config(cls, config: TrainingConfig, images: ImageSource, device: torch.device, **options: Any) -> Self:
        """A trainer of the networks that the settings describe.

        Args:
            config, images, device, options: see :class:`Trainer`.

        Raises:
            SettingsError: as :class:`Trainer`, and for a model that does not exist or does not take the images, or
                labels that a conditional run cannot learn from; one sentence.
        """
        # Weights and noise are drawn from torch's global state, one after the other.
        torch.manual_seed(seed_of(config.seed, Stream.WEIGHTS))
        generator, discriminator, architecture = build_networks(config, images)
        return cls(generator, discriminator, images, config, device, architecture=architecture, **options)

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        betas = self.config.beta1, self.config.beta2
        # The learning rate is set with the stage, and no graph outlives its stage.
        on_gpu = self.mode == "graph" and self.device.type == "cuda"
        return torch.optim.Adam(network.parameters(), lr=0.0, betas=betas, fused=True, capturable=on_gpu)

    def step(self) -> None:
        """Updates the discriminator ``discriminator_steps`` times, each on a fresh batch, then the generator once."""
        stage = self.schedule.at(self.step_count)
        if stage != self.stage:
            self._enter(stage)
        first_update = self.step_count * self.config.discriminator_steps
        updates = range(first_update, first_update + self.config.discriminator_steps)
        images = [] if self.images.capturable else [self._draw_images(u, stage.batch_size) for u in updates]
        # Counted from the first update of the run, so that a resumed run has the same penalties.
        interval = self.config.regularizer_interval if self.config.regularizer != "none" else None
        penalize = tuple(interval is not None and update % interval == 0 for update in updates)
        plan = Plan(stage.resolution, stage.fade < 1, stage.batch_size, penalize, *self.statistics.due())
        self.gan_step.prepare(self.step_count)
        self._run_step(plan, images)
        self.statistics.count(stage.batch_size // (self.distributed.world_size * self.config.accumulate))
        self.step_count += 1
        self.num_images += stage.batch_size
        self.num_summed += 1

    def _draw_images(self, update: int, batch_size: int) -> Images:
        """This rank's images of an update of the discriminator, with their labels in a conditional run."""
        images, labels = self.images.next_batch(update, batch_size, self.data_random)
        return images, labels if self.config.conditional else None

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        self.gan_step.fade.fill_(stage.fade)
        if len(self.schedule.resolutions) > 1:
            for network in (self.generator, self.discriminator, self.ema.module):
                network.grow(stage.resolution, stage.fade)
        self.generator_optimizer.param_groups[0]["lr"] = stage.generator_lr
        self.discriminator_optimizer.param_groups[0]["lr"] = stage.discriminator_lr

    def sample(self) -> tuple[Tensor, int | None]:
        """Samples of the generator's EMA, from the same latents each time.

        Returns:
            Images [N, C, H, W] in [-1, 1] on the CPU, and the columns of their grid, where classes have one each.
        """
        count = _NUM_POINTS if has_points(self.images.image_shape) else _NUM_SAMPLES
        weights = next(self.ema.module.parameters())
        latents = draw_latents(count, self.config.latent_dim, seed=self.config.seed).to(weights.dtype)
        if not self.config.conditional:
            return render(self.ema.module, latents, None), None
        num_classes = self.architecture["num_classes"]
        images = render(self.ema.module, latents, labels_in_turn(count, num_classes))
        return images, columns_by_class(count, num_classes)

    # Figures

    def all_reduce_figures_(self) -> None:
        """Replaces the sums since the last report by their means over all ranks; every rank must call this before a
        report and before a save."""
        self.distributed.all_reduce_mean_([self.loss_sums, *self.statistics.tensors().values()])

    def mean_losses(self) -> dict[str, float]:
        """Means over the updates since :meth:`reset_figures`; waits for the device.

        The discriminator's loss is without the penalty, whose mean counts updates without it as 0.
        """
        discriminator, generator, *penalty = (self.loss_sums / max(self.num_summed, 1)).tolist()
        updates = self.config.discriminator_steps
        means = {"discriminator_loss": discriminator / updates, "generator_loss": generator}
        return means | ({"penalty": penalty[0] / updates} if penalty else {})

    def health_figures(self, reading: Reading) -> dict[str, float]:
        """The figures of a reading by name, without those that mean nothing with this loss."""
        figures = dataclasses.asdict(reading)
        del figures["step"]
        if self.gan_step.loss.balance() is None:
            del figures["d_real"], figures["d_fake"]
        return figures

    def reset_figures(self) -> None:
        """Begins new sums of losses and statistics."""
        self.loss_sums.zero_()
        self.num_summed = 0
        self.statistics.reset()

    def first_non_finite(self) -> NonFinite | None:
        """The first of losses and state to become infinite or NaN, or None; waits for the device.

        What the step does not watch, such as the EMA and gradients, is checked now.
        """
        watch = self.gan_step.watch
        watch.set_step(self.step_count)
        watch.between_steps()
        self.distributed.all_reduce_min_(watch.moments())
        if found := watch.first():
            return found
        everything = {f"{group}.{name}": t for group, members in self.tensors().items() for name, t in members.items()}
        if self.precision.scales:
            # Updates with gradients that overflow are skipped, and the scale falls until they do not.
            if name := self.precision.lost_scaler():
                return NonFinite(f"gradient under {name}", self.step_count)
        else:
            for kind, network in (("discriminator", self.discriminator), ("generator", self.generator)):
                gradients = {f"gradient of {kind}.{name}": p.grad for name, p in network.named_parameters()}
                everything |= {name: gradient for name, gradient in gradients.items() if gradient is not None}
        name = first_non_finite(everything)
        return None if name is None else NonFinite(name, self.step_count)

    # State

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of the state, by file and name; :meth:`state` is the rest."""
        random = {"random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["random.cuda"] = torch.cuda.get_rng_state(self.device)
        training = {
            "loss_sums": self.loss_sums,
            "random.device": self.random.get_state(),
            "random.data": self.data_random.get_state(),
            **self.distributed.all_gather(random),
        }
        training |= {f"statistics.{name}": tensor for name, tensor in self.statistics.tensors().items()}
        for name, optimizer in self._optimizers().items():
            for index, values in optimizer.state_dict()["state"].items():
                training |= {f"{name}.{index}.{key}": value for key, value in values.items()}
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "averaged_generator": self.ema.module.state_dict(),
            "training": training,
        }

    def state(self) -> dict[str, Any]:
        """The state without its tensors, as JSON types."""
        growth = {"resolution": self.stage.resolution, "fade": self.stage.fade}
        return {
            "architecture": self.architecture,
            "device": self.device.type,
            "growth": growth if len(self.schedule.resolutions) > 1 else None,
            "history": self.history.to_json(),
            "num_images": self.num_images,
            "num_summed": self.num_summed,
            "scalers": {name: scaler.state_dict() for name, scaler in self.precision.scalers().items()},
            "statistics": self.statistics.state(),
            "step": self.step_count,
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Loads what :meth:`tensors` and :meth:`state` returned.

        Raises:
            SettingsError: for a state of another architecture or kind of device; one sentence.
        """
        self._require_same(state)
        if self._graphs is not None:
            self._graphs.forget()  # they hold tensors of the optimizers, which are replaced
        self.generator.load_state_dict(tensors["generator"])
        self.discriminator.load_state_dict(tensors["discriminator"])
        self.ema.module.load_state_dict(tensors["averaged_generator"])
        training = tensors["training"]
        for name, optimizer in self._optimizers().items():
            values: dict[int, dict[str, Tensor]] = {}
            for key, value in _without_prefix(training, f"{name}.").items():
                index, _, entry = key.partition(".")
                values.setdefault(int(index), {})[entry] = value
            optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
            for parameter, averages in optimizer.state.items():
                for entry in ("exp_avg", "exp_avg_sq"):
                    averages[entry] = laid_out_as(parameter, averages[entry])
        self.loss_sums.copy_(training["loss_sums"])
        self.num_summed = state["num_summed"]
        self.statistics.load(_without_prefix(training, "statistics."), state["statistics"])
        self.history = History.from_json(state["history"])
        self.step_count = state["step"]
        self.num_images = state["num_images"]
        self._enter(self.schedule.at(max(self.step_count - 1, 0)))
        for name, scaler in self.precision.scalers().items():
            scaler.load_state_dict(state["scalers"][name])
        self.random.set_state(training["random.device"])
        self.data_random.set_state(training["random.data"])
        rank = self.distributed.rank
        if f"random.cpu.{rank}" not in training:
            # There were fewer ranks when it was saved: this one begins a stream of random numbers.
            torch.manual_seed(seed_of(self.config.seed, Stream.NOISE, rank, self.step_count))
            return
        torch.set_rng_state(training[f"random.cpu.{rank}"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(training[f"random.cuda.{rank}"], self.device)

    def resume(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Continues from a checkpoint whose digests have been verified; the first rank reads it.

        Args:
            checkpoint: its folder.
            state: its state, from :func:`find_checkpoint`.

        Raises:
            SettingsError: see :meth:`load`.
            CheckpointError: for a checkpoint that does not fit the networks; one sentence.
        """
        try:
            self._require_same(state)
            expected = self.tensors()
            # Adam keeps two averages for each weight of both networks, all of which are in here with the EMA.
            most_bytes = 3 * sum(tensor.nbytes for members in expected.values() for tensor in members.values())
            tensors = {
                group: self.distributed.on_first(partial(load_tensors, checkpoint, group, most_bytes=most_bytes))
                for group in expected
            }
            # Older checkpoints have one stream for images and latents: latents continue it, images begin their own.
            tensors["training"].setdefault("random.data", expected["training"]["random.data"])
            self.load(tensors, state)
            # Loading converts types and broadcasts scalars: what comes out must be what went in.
            for group, members in self.tensors().items():
                require_layout(_of_any_world_size(members), _of_any_world_size(tensors[group]))
        except CheckpointError:
            raise
        except SettingsError as error:
            raise SettingsError(first_line(error)) from None
        except MISFITS as error:
            raise misfit(checkpoint, error) from None

    def _require_same(self, state: dict[str, Any]) -> None:
        for key in self.architecture.keys() | state["architecture"].keys():
            saved, chosen = (architecture.get(key) for architecture in (state["architecture"], self.architecture))
            if saved != chosen:
                raise SettingsError(f"the checkpoint has {key} {saved!r}, the run {chosen!r}")
        if state["device"] != self.device.type:
            raise SettingsError(
                f"the checkpoint was written on {state['device']}, and its random state cannot be continued on "
                f"{self.device.type}; resume it with device {state['device']!r}"
            )

    def _optimizers(self) -> dict[str, torch.optim.Adam]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _of_any_world_size(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that exist however many ranks there are: only the first rank's random states."""
    return {name: tensor for name, tensor in tensors.items() if not _OF_OTHER_RANKS.fullmatch(name)}
