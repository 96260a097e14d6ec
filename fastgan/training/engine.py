"""The networks, optimizers and random state of a run, and one step of training."""

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastgan.data.sources import ImageSource
from fastgan.seeds import Stream, seed_of
from fastgan.training.averaging import AveragedNetwork
from fastgan.training.building import build, check_groups
from fastgan.training.config import SettingsError, TrainingConfig
from fastgan.training.differentiation import Compiled, Differentiate, Eager
from fastgan.training.graph import CudaRecorder, Graphs, Recorder
from fastgan.training.growth import GrowthSchedule, Stage
from fastgan.training.health import History
from fastgan.training.iteration import Images, Iteration, Plan
from fastgan.training.non_finite import NonFinite, first_non_finite
from fastgan.training.objectives import DiscriminatorObjective, GeneratorObjective
from fastgan.training.precision import Precision, laid_out_as
from fastgan.training.ranks import Ranks
from fastgan.training.statistics import Reading


class Engine:
    """Everything that a step reads and writes, and the host's part of it.

    A step never waits for the device: losses add up there until :meth:`mean_losses` reads them.

    Args:
        config: the settings.
        source: the images, and labels that a conditional run learns from.
        device: where to train.
        ranks: the processes that share the run.
        recorder: what makes graphs of steps; that of the device by default.
        compile_backend: of ``torch.compile``.

    Attributes:
        form: how steps run: ``eager``, ``graph`` or ``compiled``; and ``form_reason``, why.
        notes: what works otherwise than set, each in one sentence.

    Raises:
        SettingsError: for a model, loss or regularizer that is not there, a resolution that the model does not have,
            settings that do not go together, or labels that a conditional run cannot learn from.
    """

    def __init__(
        self,
        config: TrainingConfig,
        source: ImageSource,
        device: torch.device,
        ranks: Ranks | None = None,
        recorder: Recorder | None = None,
        *,
        compile_backend: str = "inductor",
    ) -> None:
        ranks = ranks or Ranks()
        can_record = recorder is not None or device.type == "cuda"
        self.form, self.form_reason = choose_form(config, device, ranks.world_size, can_record)
        self.schedule = GrowthSchedule.of(config)
        for stage in self.schedule.of_resolution.values():
            ranks.check_batch_size("the batch size", stage.batch_size, config.accumulate)
        # Weights and noise draw from torch's global state, one after the other.
        torch.manual_seed(seed_of(config.seed, Stream.WEIGHTS))
        built = build(config, source)
        num_parts = ranks.world_size * config.accumulate
        sizes = [stage.batch_size for stage in self.schedule.of_resolution.values()]
        self.notes = check_groups(built.discriminator, sizes, num_parts)
        self.config = config
        self.device = device
        self.source = source
        self.architecture = built.architecture
        self.ranks = ranks
        self._precision = Precision(config, device)
        self.generator, self.discriminator = (
            ranks.normalise_over_all(self._precision.prepare(network))
            for network in (built.generator, built.discriminator)
        )
        self.averaged = AveragedNetwork(self.generator, config.ema_decay, config.ema_ramp_up)
        self.generator_optimizer = self._adam(self.generator)
        self.discriminator_optimizer = self._adam(self.discriminator)
        self.random = torch.Generator(device).manual_seed(seed_of(config.seed, Stream.LATENTS))
        self.data_random = torch.Generator(device).manual_seed(seed_of(config.seed, Stream.DATA))
        self.step_count = 0
        self.num_images = 0
        self.num_summed = 0
        self.history = History()
        self.objective = DiscriminatorObjective(
            self.discriminator,
            built.loss,
            built.regularizer,
            config.regularizer_weight * config.regularizer_interval,
            built.augment,
            self._precision,
        )
        differentiate: Differentiate = Eager()
        if self.form == "compiled":
            networks = self.generator, self.discriminator
            differentiate = Compiled(networks, self._precision.rounding, backend=compile_backend)
        self.iteration = Iteration(
            self.objective,
            GeneratorObjective(self.generator, self.objective, self._precision),
            (self.generator_optimizer, self.discriminator_optimizer),
            self.averaged,
            self._precision,
            self.random,
            ranks,
            differentiate,
            # What is drawn on the device does not depend on the number of the update.
            draw_images=partial(self._images, 0) if source.capturable else None,
            accumulate=config.accumulate,
            flips=config.flips,
            grows=len(self.schedule.resolutions) > 1,
        )
        self.statistics = self.iteration.statistics
        self.loss_sums = self.iteration.loss_sums
        self._graphs = None
        if self.form == "graph":
            self._graphs = Graphs(self.iteration, recorder or CudaRecorder(device, [self.random, self.data_random]))
        self._run = (self._graphs or self.iteration).run
        self._enter(self.schedule.at(0))
        torch.manual_seed(seed_of(config.seed, Stream.NOISE, ranks.rank))

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        betas = self.config.beta1, self.config.beta2
        # The rate is the stage's, and no graph outlives its stage.
        on_gpu = self.form == "graph" and self.device.type == "cuda"
        return torch.optim.Adam(network.parameters(), lr=0.0, betas=betas, fused=True, capturable=on_gpu)

    def step(self) -> None:
        """Trains the discriminator ``discriminator_steps`` times, each on fresh batches, then the generator once."""
        stage = self.schedule.at(self.step_count)
        if stage != self.stage:
            self._enter(stage)
        first_update = self.step_count * self.config.discriminator_steps
        updates = range(first_update, first_update + self.config.discriminator_steps)
        given = []
        if not self.source.capturable:
            given = [self._images(update, stage.batch_size) for update in updates]
        scored, compared = self.statistics.due()
        # By the host's own count, which a checkpoint keeps.
        interval = self.config.regularizer_interval if self.config.regularizer != "none" else None
        penalised = tuple(interval is not None and update % interval == 0 for update in updates)
        plan = Plan(stage.resolution, stage.fade < 1, stage.batch_size, penalised, scored, compared)
        self.iteration.before(self.step_count)
        self._run(plan, given)
        self.statistics.count(stage.batch_size // (self.ranks.world_size * self.config.accumulate))
        self.step_count += 1
        self.num_images += stage.batch_size
        self.num_summed += 1

    def _images(self, update: int, size: int) -> Images:
        """This rank's images of an update of the discriminator, with their labels in a conditional run."""
        images, labels = self.source.next_batch(update, size, self.data_random)
        return images, labels if self.config.conditional else None

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        self.iteration.fade.fill_(stage.fade)
        if len(self.schedule.resolutions) > 1:
            for network in (self.generator, self.discriminator, self.averaged.module):
                network.grow(stage.resolution, stage.fade)
        self.generator_optimizer.param_groups[0]["lr"] = stage.generator_lr
        self.discriminator_optimizer.param_groups[0]["lr"] = stage.discriminator_lr

    def mean_losses(self) -> dict[str, float]:
        """Means over the updates since :meth:`reset_losses`; waits for the device.

        The discriminator's loss is without the penalty, which is told beside it: its mean over all updates, those that
        a lazy interval leaves out included.
        """
        discriminator, generator, *penalty = (self.loss_sums / max(self.num_summed, 1)).tolist()
        updates = self.config.discriminator_steps
        means = {"discriminator_loss": discriminator / updates, "generator_loss": generator}
        return means | ({"penalty": penalty[0] / updates} if penalty else {})

    def agree(self) -> None:
        """Makes the sums since the last report those of all ranks; for all of them to call, before a report and before
        the state is saved."""
        self.ranks.mean_([self.loss_sums, *self.statistics.tensors().values()])

    def health_figures(self, reading: Reading) -> dict[str, float]:
        """The figures of a reading by name, without what says nothing with this loss."""
        figures = dataclasses.asdict(reading)
        del figures["step"]
        if self.objective.loss.balance() is None:
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
        watch = self.iteration.watch
        watch.before(self.step_count)
        watch.between_steps()
        self.ranks.least_(watch.moments())
        if found := watch.first():
            return found
        everything = {f"{group}.{name}": t for group, members in self.tensors().items() for name, t in members.items()}
        if self._precision.scales:
            # Gradients that overflow are passed over, and the scale falls until they do not.
            if name := self._precision.lost_scaler():
                return NonFinite(f"gradient under {name}", self.step_count)
        else:
            for kind, network in (("discriminator", self.discriminator), ("generator", self.generator)):
                gradients = {f"gradient of {kind}.{name}": p.grad for name, p in network.named_parameters()}
                everything |= {name: gradient for name, gradient in gradients.items() if gradient is not None}
        name = first_non_finite(everything)
        return None if name is None else NonFinite(name, self.step_count)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The whole state in tensors, by file and name; the other half is :meth:`state`."""
        random = {"random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["random.cuda"] = torch.cuda.get_rng_state(self.device)
        training = {
            "loss_sums": self.loss_sums,
            "random.device": self.random.get_state(),
            "random.data": self.data_random.get_state(),
            **self.ranks.gathered(random),
        }
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
            "scalers": {name: scaler.state_dict() for name, scaler in self._precision.scalers().items()},
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
        if self._graphs is not None:
            self._graphs.forget()  # they hold the tensors of the optimizers, which are replaced
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
            for parameter, averages in optimizer.state.items():
                for entry in ("exp_avg", "exp_avg_sq"):
                    averages[entry] = laid_out_as(parameter, averages[entry])
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
        for name, scaler in self._precision.scalers().items():
            scaler.load_state_dict(state["scalers"][name])
        self.random.set_state(training["random.device"])
        self.data_random.set_state(training["random.data"])
        rank = self.ranks.rank
        if f"random.cpu.{rank}" not in training:
            # There are more ranks than when it was saved: a stream of random numbers of its own.
            torch.manual_seed(seed_of(self.config.seed, Stream.NOISE, rank, self.step_count))
            return
        torch.set_rng_state(training[f"random.cpu.{rank}"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(training[f"random.cuda.{rank}"], self.device)

    def _optimizers(self) -> dict[str, torch.optim.Adam]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }


def choose_form(config: TrainingConfig, device: torch.device, world_size: int, can_record: bool) -> tuple[str, str]:
    """How steps run, and why.

    Raises:
        SettingsError: for a form that there is not here; one sentence.
    """
    form = config.engine
    if form == "auto":
        if not can_record:
            return "eager", f"there are no graphs on {device.type}"
        if world_size > 1:
            return "eager", "messages between ranks are not captured"
        return "graph", "the host launches a step at once"
    if form == "graph" and not can_record:
        raise SettingsError(f"engine is 'graph', which needs a CUDA device, and the run is on {device.type}")
    if form != "eager" and world_size > 1:
        raise SettingsError(f"engine is {form!r} on {world_size} ranks, where only 'eager' works")
    if form == "compiled" and config.precision == "float16":
        raise SettingsError("engine is 'compiled' with precision 'float16'; expected float32 or bfloat16")
    return form, "as set"
