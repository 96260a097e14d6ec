"""The trainer: holds networks, data, optimizers and training state; runs steps, draws samples, saves and resumes."""

import atexit
import dataclasses
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from fastgan.console import warner
from fastgan.data import absolute_source
from fastgan.data.gaussians import has_points
from fastgan.data.sources import ImageSource
from fastgan.errors import MISFITS, first_line
from fastgan.models.own import OWN, Build, describe, is_own
from fastgan.sampling import Sheet, columns_by_class, draw_latents, generate, labels_in_turn, render
from fastgan.seeds import Stream, seed_of
from fastgan.training.build import (
    build_networks,
    build_objective,
    check_group_sizes,
    choose_mode,
    open_images,
    own_architecture,
)
from fastgan.training.check import Tryout, check_placement
from fastgan.training.checkpoint import (
    CheckpointError,
    drop_checkpoints,
    find_checkpoint,
    list_checkpoints,
    load_tensors,
    misfit,
    require_layout,
    save_checkpoint,
)
from fastgan.training.compiled import Compiled
from fastgan.training.config import (
    SettingsError,
    TrainingConfig,
    at_step,
    is_scheduled,
    load_settings,
)
from fastgan.training.cuda_graph import CudaRecorder, Graphs
from fastgan.training.device import resolve_device
from fastgan.training.distributed import Distributed
from fastgan.training.ema import EMA
from fastgan.training.evaluate import Best
from fastgan.training.fit import count_of, fit, kept_settings, prepare_folder, require_finite, write_error
from fastgan.training.health import History
from fastgan.training.precision import Precision, laid_out_as
from fastgan.training.progressive import GrowingSchedule, Stage
from fastgan.training.statistics import NonFinite, Reading, first_non_finite
from fastgan.training.step import Eager, GanStep, Images, Plan

T = TypeVar("T")
_log = logging.getLogger(__name__)

_NUM_SAMPLES = 64
_NUM_POINTS = 1000
_OF_OTHER_RANKS = re.compile(r"random\.(cpu|cuda)\.[1-9][0-9]*")


class Callback(Protocol):
    """Functions that a trainer calls while it fits. Either may be missing; neither affects the random state."""

    def on_step(self, trainer: "Trainer", step: int, metrics: dict[str, float]) -> bool | None:
        """Called after each step with the number of steps so far. ``metrics`` has the figures of a reported step, and
        is empty for other steps. Training ends if this returns True."""

    def on_end(self, trainer: "Trainer") -> None:
        """Called after the last step is saved."""


class Trainer:
    """Trains two networks on images and writes a run's folder. ``fastgan train`` uses this class.

    Steps never wait for the device: losses are summed there until they are read. Under torchrun each process makes one
    trainer, and these train together. The global random state is seeded from the setting ``seed``.

    Args:
        generator: any module that maps standard normal latents [N, latent_dim] and, in a conditional run, labels, int64
            [N], to images [N, C, S, S] in [-1, 1].
        discriminator: any module that maps such images and labels to logits [N], [N, 1] or [N, 1, h, w]. Both networks
            are trained in place, on the run's device.
        data: a path or name of bundled data, as for ``--data``; a Dataset of images or of pairs (image, label); an
            array or tensor of images. The setting ``data`` by default.
        out: the run's folder; without it the trainer can neither save nor fit.
        config: base settings, or a TOML file of them; :class:`TrainingConfig`'s defaults otherwise.
        callbacks: see :class:`Callback`.
        console: console for progress and notes; the standard output by default.
        architecture: the arguments of :func:`fastgan.models.build_networks`; None for the user's networks, which are
            tried out first.
        distributed: the processes that share the run; those of torchrun by default.
        recorder: records steps; CUDA graphs by default.
        compile_backend: backend of ``torch.compile``.
        settings: single settings, such as ``latent_dim=128`` or ``batch_size=64``. ``loss`` may also be a pair of
            functions; a regularizer, a function of critic, real and fake images; a learning rate, ``beta2``,
            ``ema_half_life`` or a penalty's weight, a function of the number of steps so far. ``resolution`` defaults
            to that of the generator's images.

    Attributes:
        mode: how steps run: ``eager``, ``graph`` or ``compiled``; ``mode_reason`` says why.
        notes: sentences on settings that take effect differently than set.
        ema: moving average of the generator.
        step_count: number of steps trained.
        saved_step: step of the latest checkpoint that this trainer has written or resumed, or None.

    Raises:
        SettingsError, DataError: for settings, networks or data that cannot be used; one sentence.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        data: Any = None,
        *,
        out: str | Path | None = None,
        config: TrainingConfig | str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        console: Console | None = None,
        architecture: dict[str, Any] | None = None,
        distributed: Distributed | None = None,
        recorder: CudaRecorder | None = None,
        compile_backend: str = "inductor",
        **settings: Any,
    ) -> None:
        config, resolution_given = _merged(config, settings)
        device = resolve_device(config.device)
        distributed = distributed or _joined(device)
        self.distributed, self.device = distributed, device
        self.folder = None if out is None else Path(out)
        self.callbacks = callbacks
        # Under torchrun only the first rank reports.
        self.console = console or Console(soft_wrap=True, quiet=not distributed.is_first)

        self.precision = Precision(config, device)
        own = architecture is None
        if own:
            config = config if is_own(config.model) else dataclasses.replace(config, model=OWN)
            check_placement(generator, discriminator, device)
            distributed.check_batch_size(config.batch_size, config.accumulate)
        self.generator, self.discriminator = (
            distributed.sync_batch_norm(self.precision.prepare(network)) for network in (generator, discriminator)
        )
        self.notes: list[str] = []
        if own:
            batch_size = config.batch_size // (distributed.world_size * config.accumulate)
            tryout = Tryout(self.generator, self.discriminator, self.precision, config, batch_size)
            if not resolution_given:
                config = dataclasses.replace(config, resolution=tryout.image_shape()[-1])
        self.config, self.images, self.data = config, _, _ = _opened(config, device, distributed, data)
        self.architecture = architecture or {"model": OWN, **own_architecture(config, self.images)}
        self.num_classes: int | None = self.architecture.get("num_classes")

        can_record = recorder is not None or device.type == "cuda"
        self.mode, self.mode_reason = choose_mode(config, device, distributed.world_size, can_record)
        self.schedule = GrowingSchedule(config)
        batch_sizes = [stage.batch_size for stage in self.schedule.stages.values()]
        for batch_size in batch_sizes:
            distributed.check_batch_size(batch_size, config.accumulate)
        self.notes += check_group_sizes(discriminator, batch_sizes, distributed.world_size * config.accumulate)
        loss, penalties, augment = build_objective(config, discriminator, self.images.image_shape)
        self.ema = EMA(self.generator, config.ema_decay, config.ema_ramp_up or None)
        describe(self.ema.module, self.architecture, self.images.class_names)
        unused = []
        if own:
            unused, unsaved = tryout.check(self.images.image_shape, self.images.name, self.num_classes, loss)
            self.notes += unused + unsaved
        self.generator_optimizer = self._adam(self.generator)
        self.discriminator_optimizer = self._adam(self.discriminator)
        self.random = torch.Generator(device).manual_seed(seed_of(config.seed, Stream.LATENTS))
        self.data_random = torch.Generator(device).manual_seed(seed_of(config.seed, Stream.DATA))
        self.step_count = 0
        self.num_images = 0
        self.history = History()
        self.best: Best | None = None
        self.saved_step: int | None = None
        self._is_open = False

        mode = Eager()
        if self.mode == "compiled":
            networks = self.generator, self.discriminator
            mode = Compiled(networks, self.precision.rounding, self._fall_back_to_eager, backend=compile_backend)
        self.gan_step = GanStep(
            *(self.generator, self.discriminator, loss, penalties, augment),
            optimizers=(self.generator_optimizer, self.discriminator_optimizer),
            ema=self.ema,
            precision=self.precision,
            random=self.random,
            distributed=distributed,
            mode=mode,
            config=config,
            # Images drawn on the device do not depend on the index of the update.
            draw_images=partial(self._draw_images, 0) if self.images.capturable else None,
            some_unused=len(self.schedule.resolutions) > 1 or bool(unused),
        )
        # Other ranks had weights of their own until the step was made.
        self.ema.module.load_state_dict(self.generator.state_dict())
        self.statistics = self.gan_step.statistics
        self.loss_sums = self.gan_step.loss_sums
        self._graphs = None
        if self.mode == "graph":
            recorder = recorder or CudaRecorder(device, [self.random, self.data_random])
            self._graphs = Graphs(self.gan_step, recorder, self._fall_back_to_eager)
        self._run_step = (self._graphs or self.gan_step).run
        self._enter(self.schedule.at(0))
        torch.manual_seed(seed_of(config.seed, Stream.NOISE, distributed.rank))

    @classmethod
    def from_config(
        cls, config: TrainingConfig, data: Any = None, *, build: Build | None = None, **options: Any
    ) -> Self:
        """Makes a trainer of the networks that the settings describe.

        Args:
            config, data, options: see :class:`Trainer`.
            build: a function that returns generator and discriminator, in place of the setting ``model``. It gets those
                of the keyword arguments resolution, num_channels, latent_dim and num_classes that it names.

        Raises:
            SettingsError, DataError: as :class:`Trainer`, and for a model that does not exist or does not take the
                images, or labels that a conditional run cannot learn from; one sentence.
        """
        device = resolve_device(config.device)
        distributed = options["distributed"] = options.get("distributed") or _joined(device)
        config, images, source = _opened(config, device, distributed, data)
        # Torch's global random state draws first the weights, then the noise.
        torch.manual_seed(seed_of(config.seed, Stream.WEIGHTS))
        generator, discriminator, architecture = build_networks(config, images, build)
        trainer = cls(generator, discriminator, images, config=config, architecture=architecture, **options)
        trainer.data = source
        return trainer

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        config, device = self.config, self.device
        # A tensor, so that a captured graph follows the schedule. Other rates change only with the stage, as graphs do.
        rates = config.lr, config.generator_lr, config.discriminator_lr
        lr = torch.zeros((), device=device) if any(map(is_scheduled, rates)) else 0.0
        betas = config.beta1, at_step(config.beta2, 0)
        capturable = self.mode == "graph" and device.type == "cuda"
        return torch.optim.Adam(network.parameters(), lr=lr, betas=betas, fused=True, capturable=capturable)

    def _fall_back_to_eager(self, why: str) -> None:
        self.mode, self.mode_reason = "eager", why
        _log.warning(why)

    def step(self) -> None:
        """Updates the discriminator ``discriminator_steps`` times, each on a fresh batch, then the generator once."""
        stage = self.schedule.at(self.step_count)
        if stage != self.stage:
            self._enter(stage)
        first_update = self.step_count * self.config.discriminator_steps
        updates = range(first_update, first_update + self.config.discriminator_steps)
        images = [] if self.images.capturable else [self._draw_images(u, stage.batch_size) for u in updates]
        # Counted from the first update of the run, so that a resumed run has the same penalties.
        intervals = [penalty.interval for penalty in self.gan_step.penalties]
        penalize = tuple(tuple(i for i, every in enumerate(intervals) if update % every == 0) for update in updates)
        plan = Plan(stage.resolution, stage.fade < 1, stage.batch_size, penalize, *self.statistics.due())
        self.gan_step.prepare(self.step_count)
        self._follow_schedules()
        self._run_step(plan, images)
        self.statistics.count(stage.batch_size // (self.distributed.world_size * self.config.accumulate))
        self.step_count += 1
        self.num_images += stage.batch_size

    def _draw_images(self, update: int, batch_size: int) -> Images:
        """Draws this rank's images for a discriminator update, with their labels in a conditional run."""
        images, labels = self.images.next_batch(update, batch_size, self.data_random)
        return images, labels if self.config.conditional else None

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        self.gan_step.fade.fill_(stage.fade)
        if len(self.schedule.resolutions) > 1:
            for network in (self.generator, self.discriminator, self.ema.module):
                network.grow(stage.resolution, stage.fade)
        self._follow_schedules()

    def _follow_schedules(self) -> None:
        beta2 = at_step(self.config.beta2, self.step_count)
        for optimizer, lr in (
            (self.generator_optimizer, self.stage.generator_lr),
            (self.discriminator_optimizer, self.stage.discriminator_lr),
        ):
            group = optimizer.param_groups[0]
            lr = at_step(lr, self.step_count)
            # A graph may read the tensor, so it is filled, not replaced.
            group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], Tensor) else lr
            group["betas"] = self.config.beta1, beta2

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Tensor | Sequence[int] | int | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Generates images with the generator's EMA.

        Args:
            n: number of images, at least 1.
            seed: seed of the latents; a seed's first images are the same for every ``n``.
            labels: for a conditional run, a class index per image, or one for all; by default the classes in turn.
            truncation: psi in [0, 1], for a generator with truncation.

        Returns:
            float32 [n, C, H, W] in [-1, 1], on the CPU.

        Raises:
            SamplingError: for labels or a truncation that the generator does not take; one sentence.
        """
        if labels is not None:
            labels = torch.as_tensor(labels)
            labels = labels if labels.dim() else labels.expand(n)
        psi = 1.0 if truncation is None else truncation
        return generate(self.ema.module, n, labels=labels, truncation=psi, seed=seed)

    def sample_grid(self) -> Sheet:
        """Generates a run's regular samples, always from the same latents; one column per class if they fit, headed by
        the class names of the data."""
        count = _NUM_POINTS if has_points(self.images.image_shape) else _NUM_SAMPLES
        weights = next(self.ema.module.parameters())
        latents = draw_latents(count, self.config.latent_dim, seed=self.config.seed).to(weights.dtype)
        if self.num_classes is None:
            return Sheet(render(self.ema.module, latents, None))
        labels = labels_in_turn(count, self.num_classes)
        columns, names = columns_by_class(count, self.num_classes), self.images.class_names
        named = [names[label] for label in labels[:columns].tolist()] if columns and names else ()
        return Sheet(render(self.ema.module, latents, labels), columns, column_names=named)

    # Runs

    def fit(self) -> None:
        """Trains to the last step, with reports, samples and checkpoints.

        A folder with a checkpoint is resumed, as if training had never been interrupted.

        Raises:
            SettingsError, CheckpointError, WriteError: where there is no folder, it cannot be written, or it holds a
                run of other networks or settings; one sentence.
            NonFiniteError: see :func:`fastgan.training.run.resume_run`.
            KeyboardInterrupt, SystemExit: after Ctrl-C and SIGTERM, once the current step is finished and saved.
        """
        folder = self._require_folder()
        if self.step_count == 0 and self.saved_step is None and self.on_first(lambda: bool(list_checkpoints(folder))):
            self.resume(strict=True)
        received = fit(self)
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        if received is not None:
            sys.exit(128 + received)

    def save(self) -> Path:
        """Writes a checkpoint of the current step, unless it exists, and deletes expired checkpoints.

        Returns:
            The checkpoint's folder.

        Raises:
            SettingsError, WriteError, NonFiniteError: as :meth:`fit`.
        """
        if self.saved_step != self.step_count:
            self.open_folder()
            require_finite(self)
            self.all_reduce_figures_()
            tensors = self.tensors()

            def save() -> None:
                state = self.state() | {"settings": kept_settings(self.config)}
                save_checkpoint(self.folder, self.step_count, tensors, state)
                self.drop_checkpoints()

            self.on_first(save)
            self.saved_step = self.step_count
        return self.folder / "checkpoints" / str(self.step_count)

    def open_folder(self) -> None:
        """Makes the run's folder, once; deletes the files of an earlier run without a checkpoint there."""
        if self._is_open:
            return
        self.distributed.on_first(partial(prepare_folder, self._require_folder(), self.config))
        self._is_open = True

    def drop_checkpoints(self) -> None:
        """Deletes expired checkpoints."""
        protected = [] if self.best is None else [self.best.step]
        keep_last, keep_every = self.config.keep_checkpoints, self.config.keep_every
        drop_checkpoints(self.folder, keep_last=keep_last, keep_every=keep_every, protected=protected)

    def on_first(self, function: Callable[[], T]) -> T:
        """As :meth:`Distributed.on_first`, for functions that write to the run's folder; WriteError if they cannot."""

        def writing() -> T:
            try:
                return function()
            except OSError as error:
                raise write_error(error, self.folder, self.config) from error

        return self.distributed.on_first(writing)

    def _require_folder(self) -> Path:
        if self.folder is None:
            raise SettingsError("the trainer has no folder to write to; give it one with out=")
        return self.folder

    # Figures

    def all_reduce_figures_(self) -> None:
        """Replaces the sums since the last report by their means over all ranks; every rank must call this before a
        report and before a save."""
        self.distributed.all_reduce_mean_([self.loss_sums, *self.statistics.tensors().values()])

    def mean_losses(self) -> dict[str, float]:
        """Mean losses over the updates since :meth:`reset_figures`; waits for the device.

        The discriminator's loss excludes penalties. In their mean, updates without a penalty count as 0.
        """
        discriminator, generator, *penalty = (self.loss_sums / max(self.statistics.num_steps, 1)).tolist()
        updates = self.config.discriminator_steps
        means = {"discriminator_loss": discriminator / updates, "generator_loss": generator}
        return means | ({"penalty": penalty[0] / updates} if penalty else {})

    def health_figures(self, reading: Reading) -> dict[str, float]:
        """The figures of a reading by name, without those that are meaningless for this loss."""
        figures = dataclasses.asdict(reading)
        del figures["step"]
        if self.gan_step.loss.balance() is None:
            del figures["d_real"], figures["d_fake"]
        return figures

    def reset_figures(self) -> None:
        """Sets the sums of losses and statistics to 0."""
        self.loss_sums.zero_()
        self.statistics.reset()

    def first_non_finite(self) -> NonFinite | None:
        """The first loss or tensor of the state to become infinite or NaN, or None; waits for the device.

        Tensors that :class:`FiniteWatch` does not check, such as the EMA and gradients, are checked now.
        """
        watch = self.gan_step.watch
        watch.set_step(self.step_count)
        watch.check_all()
        self.distributed.all_reduce_min_(watch.moments)
        if found := watch.first():
            return found
        everything = {f"{group}.{name}": t for group, members in self.tensors().items() for name, t in members.items()}
        if self.precision.scales:
            # Scaled gradients may overflow: the scaler skips such updates and lowers its scale until they do not.
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
        """The tensors of the state, by file and name; :meth:`state` returns the rest."""
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
            **({} if self.best is None else {"best": self.best._asdict()}),
            "class_names": self.images.class_names,
            "device": self.device.type,
            "growth": growth if len(self.schedule.resolutions) > 1 else None,
            "history": dataclasses.asdict(self.history),
            "num_images": self.num_images,
            "num_summed": self.statistics.num_steps,
            "scalers": {name: scaler.state_dict() for name, scaler in self.precision.scalers().items()},
            "step": self.step_count,
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Loads the results of :meth:`tensors` and :meth:`state`."""
        self._require_same(state)
        if self._graphs is not None:
            self._graphs.forget()  # they hold the optimizers' tensors, which are replaced
        self.generator.load_state_dict(tensors["generator"])
        self.discriminator.load_state_dict(tensors["discriminator"])
        self.ema.module.load_state_dict(tensors["averaged_generator"])
        training = tensors["training"]
        for name, optimizer in self._optimizers().items():
            values: dict[int, dict[str, Tensor]] = {}
            for key, value in training.items():
                if key.startswith(f"{name}."):
                    _, index, entry = key.split(".")
                    values.setdefault(int(index), {})[entry] = value
            optimizer.load_state_dict({"state": values, "param_groups": optimizer.state_dict()["param_groups"]})
            for parameter, averages in optimizer.state.items():
                for entry in ("exp_avg", "exp_avg_sq"):
                    averages[entry] = laid_out_as(parameter, averages[entry])
        self.loss_sums.copy_(training["loss_sums"])
        for name, tensor in self.statistics.tensors().items():
            tensor.copy_(training[f"statistics.{name}"])
        self.statistics.num_steps = state["num_summed"]
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
            # The state was saved with fewer ranks: this rank starts a new stream of random numbers.
            torch.manual_seed(seed_of(self.config.seed, Stream.NOISE, rank, self.step_count))
            return
        torch.set_rng_state(training[f"random.cpu.{rank}"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(training[f"random.cuda.{rank}"], self.device)

    def resume(self, *, strict: bool = False) -> None:
        """Resumes from the latest complete checkpoint of the run's folder, with the settings of this trainer.

        A damaged checkpoint is skipped with a warning.

        Args:
            strict: refuse settings that differ from the checkpoint's; otherwise the trainer's apply, with a warning.
                Settings that do not affect the weights, such as ``steps``, may always differ.

        Raises:
            SettingsError: for a run of other networks, device or settings; one sentence.
            CheckpointError: where there is no checkpoint that fits the networks; one sentence.
        """
        folder, warn = self._require_folder(), warner(self.console)
        checkpoint, state = self.distributed.on_first(partial(find_checkpoint, folder, warn=warn))
        before, now = state.get("settings", {}), kept_settings(self.config)
        changed = [name for name in now if before.get(name, now[name]) != now[name]]
        if changed and strict:
            name = changed[0]
            raise SettingsError(
                f"run {str(folder)!r} was trained with {name} {before[name]!r}, and this trainer has {now[name]!r}; "
                "give the same, another out, or call resume() before fit(), which follows new settings"
            )
        if state["step"] > self.config.steps:
            raise SettingsError(
                f"run {str(folder)!r} is at step {state['step']} already, past its last, {self.config.steps} steps"
            )
        try:
            self._load_checkpoint(checkpoint, state)
            self.best = Best(**state["best"]) if "best" in state else None
        except CheckpointError:
            raise
        except SettingsError as error:
            raise SettingsError(first_line(error)) from None
        except MISFITS as error:
            raise misfit(checkpoint, error) from None
        self.saved_step, self._is_open = self.step_count, True
        if changed:
            differences = ", ".join(f"{name} {now[name]!r} (was {before[name]!r})" for name in changed)
            warn(f"{folder / 'config.toml'} was altered and is followed from here on: {differences}")

    def _load_checkpoint(self, checkpoint: Path, state: dict[str, Any]) -> None:
        """Reads a checkpoint on the first rank and loads it on all. Its digests are already verified."""
        self._require_same(state)
        expected = self.tensors()
        # Without optimizer state, the expected tensors are the networks and the EMA; Adam adds two averages per weight.
        most_bytes = 3 * sum(tensor.nbytes for members in expected.values() for tensor in members.values())
        tensors = {
            group: self.distributed.on_first(partial(load_tensors, checkpoint, group, most_bytes=most_bytes))
            for group in expected
        }
        # Older checkpoints have one random stream for images and latents: latents continue it, images start a new one.
        tensors["training"].setdefault("random.data", expected["training"]["random.data"])
        self.load(tensors, state)
        # Loading converts dtypes and broadcasts scalars, so the loaded state must have the file's layout.
        for group, members in self.tensors().items():
            require_layout(_of_any_world_size(members), _of_any_world_size(tensors[group]))

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


def _of_any_world_size(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose presence does not depend on the number of ranks: all but other ranks' random states."""
    return {name: tensor for name, tensor in tensors.items() if not _OF_OTHER_RANKS.fullmatch(name)}


def _joined(device: torch.device) -> Distributed:
    """The processes that torchrun has started, which this one leaves when it exits."""
    distributed = Distributed.from_environment()
    atexit.register(distributed.close)
    distributed.use(device)
    return distributed


def _opened(
    config: TrainingConfig, device: torch.device, distributed: Distributed, data: Any
) -> tuple[TrainingConfig, ImageSource, Any]:
    """Opens the images of a run; returns settings that name them, in any folder, the images, and their data."""
    if isinstance(data, Path):
        data = str(data.absolute())  # also where its name is that of bundled data
    if data is None or isinstance(data, str):
        name = config.data if data is None else data
        config = dataclasses.replace(config, data=name if name.startswith("<") else absolute_source(name))
        images, data = open_images(config, device, distributed), config.data
    else:
        images = open_images(config, device, distributed, data)
    # Each rank draws the indices of a whole batch: they, and labels, must mean the same on all hosts.
    classes = f", of the classes {', '.join(images.class_names)}" if images.class_names else ""
    distributed.require_same("the data", f"{count_of(images)}images of shape {list(images.image_shape)}{classes}")
    if images is data:
        data = config.data
    elif not isinstance(data, str):
        config = dataclasses.replace(config, data=f"<{images.name}>")
    return config, images, data


def _merged(config: TrainingConfig | str | Path | None, settings: dict[str, Any]) -> tuple[TrainingConfig, bool]:
    """The settings of a trainer, and whether they include a resolution."""
    if isinstance(config, TrainingConfig):
        return dataclasses.replace(config, **settings), True
    given = ({} if config is None else load_settings(Path(config))) | settings
    return TrainingConfig.from_mapping(given), "resolution" in given
