"""The forms of the trainer against each other where graphs are CUDA's own.

Each body takes a device and runs once on a CPU too, with a tape in place of CUDA graphs, for fewer steps: what only a
chip can tell is whether CUDA's graphs do what the tape does, whether anything waits, and what memory really holds.
"""

import copy
import warnings
from contextlib import contextmanager

import pytest
import torch
from tape import Tape

from fastgan.data.sources import ResidentImages
from fastgan.training.config import load_preset, preset_names
from fastgan.training.device import fits_on_gpu, largest_batch_size
from fastgan.training.trainer import Trainer

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
LABELS = torch.arange(20) % 3
SIZES = {"resolution", "base_channels", "latent_dim", "batch_size", "batch_sizes", "lrs", "steps", "data"}

# Rounding of float64 is 2**-53 = 1e-16. A gradient sums some thousand products, so two forms that sum in another order
# differ in it by 1e-16 * sqrt(1e3) = 4e-15 of its size at most. Adam's first steps divide a gradient by its own size,
# which carries over at full size what is as small as its eps of 1e-8 of the gradients around it: 4e-15 / 1e-8 = 4e-7
# of a rate of 1e-3, and 50 steps add up to 50 * 4e-10 = 2e-8 where the weights are of the size of 1. Networks pass
# a difference on in each step: a margin of 100 for that. A term that is lost or drawn twice shows in the second digit.
CLOSE_AFTER_50 = 2e-6
# Of a few steps, as on a CPU, what rounding leaves of a gradient that is zero stays below Adam's eps.
CLOSE_AT_FIRST = 1e-9

on_a_chip = pytest.mark.gpu


def on():
    """The two devices: the chip, and a CPU that shows that the body runs."""
    return pytest.mark.parametrize("device", [pytest.param(CUDA, marks=on_a_chip), CPU], ids=str)


@contextmanager
def deterministic(device):
    """Sums in the same order each time, where torch can; a workspace of cuBLAS that no stream shares."""
    before = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = before


@pytest.fixture(autouse=True)
def workspace(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def state_of(trainer):
    """Everything that a step may change."""
    tensors = [t for group, members in trainer.tensors().items() if group != "training" for t in members.values()]
    for optimizer in (trainer.generator_optimizer, trainer.discriminator_optimizer):
        tensors += [t for state in optimizer.state.values() for t in state.values()]
    for scaler in trainer.precision.scalers().values():
        scaler.scale(torch.ones((), device=trainer.device))  # makes what it keeps
        tensors += [scaler._scale, scaler._growth_tracker]
    sums = [trainer.loss_sums, *trainer.statistics.tensors().values(), trainer.gan_step.watch.moments]
    return tensors + sums, [trainer.random, trainer.data_random, torch.default_generator]


class Streamed(ResidentImages):
    """Images that come from the host, a new tensor for every update of the discriminator."""

    capturable = False

    def next_batch(self, update, size, random):
        images, labels = self.batch(torch.arange(update, update + size, device=self._images.device) % len(self))
        return images.cpu().to(images.device), labels


@pytest.fixture
def trainer_of(tiny, images):
    """A trainer of ``tiny`` settings; one of graphs has CUDA's on a chip, and a tape on a CPU."""

    def make(device, source=ResidentImages, data=images, **settings):
        settings = {"model": "plain", "device": str(device)} | settings
        recorder = None
        if device.type == "cpu" and settings["engine"] == "graph":
            recorder = Tape(lambda: state_of(trainer))
        trainer = Trainer.from_config(tiny(**settings), source(data, LABELS, device), recorder=recorder)
        return trainer

    return make


def preset_of(name, images):
    """The settings of a preset at a tiny size, and its data."""
    preset = load_preset(name)
    settings = {key: value for key, value in preset.items() if key not in SIZES}
    settings |= {"grow_stable_steps": 6, "grow_fade_steps": 5} if "grow_from" in settings else {}
    if preset["data"] == "gaussians":
        return settings | {"resolution": 1, "base_channels": 16}, images.new_zeros(20, 2, 1, 1).random_(256)
    return settings, images


def weights_after(trainer, steps):
    torch.manual_seed(2)
    for _ in range(steps):
        trainer.step()
    networks = trainer.generator, trainer.discriminator, trainer.ema.module
    return [t.double() for network in networks for t in network.state_dict().values() if t.is_floating_point()]


def largest_difference(found, expected):
    return max(((a - b).norm() / b.norm().clamp_min(1e-30)).item() for a, b in zip(found, expected, strict=True))


# On a CPU plain pytest trains the preset that grows.
@pytest.mark.parametrize(
    ("device", "preset"),
    [pytest.param(CUDA, name, marks=on_a_chip) for name in preset_names()]
    + [pytest.param(CPU, name, marks=[] if name == "stylegan" else pytest.mark.exhaustive) for name in preset_names()],
    ids=str,
)
def test_graphs_train_every_preset_as_eager_steps_do(trainer_of, images, device, preset):
    settings, data = preset_of(preset, images)
    steps = 50 if device == CUDA else 16
    with deterministic(device):
        found, expected = (
            weights_after(trainer_of(device, data=data, **settings, engine=form, precision="float64"), steps)
            for form in ("graph", "eager")
        )
    assert largest_difference(found, expected) < CLOSE_AFTER_50


# Inductor takes up to a minute a preset: the others beside one that is penalized are exhaustive.
@pytest.mark.gpu
@pytest.mark.parametrize(
    "preset",
    [name if name == "wgan-gp" else pytest.param(name, marks=pytest.mark.exhaustive) for name in preset_names()],
)
def test_compiled_steps_are_the_eager_ones_of_every_preset(trainer_of, images, preset):
    assert_compiled_is_eager(trainer_of, CUDA, *preset_of(preset, images))


def assert_compiled_is_eager(trainer_of, device, settings, data):
    made = {
        form: trainer_of(device, data=data, **settings, engine=form, precision="float64")
        for form in ("compiled", "eager")
    }
    assert made["compiled"].mode == "compiled"
    made["eager"].gan_step.mode.reuses_fakes = False  # images are made again, with new noise
    with deterministic(device):
        found, expected = (weights_after(trainer, 4) for trainer in made.values())
    assert largest_difference(found, expected) < CLOSE_AT_FIRST


@contextmanager
def nothing_waits(device):
    """On a chip any wait for it that torch knows of raises."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_wait_for_the_chip_would_be_seen():
    with nothing_waits(CUDA), pytest.raises(RuntimeError, match="synchronizing"):
        torch.ones((), device=CUDA).item()


@on()
@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "eager"},
        {"engine": "graph"},
        {"engine": "graph", "regularizer": "wgan-gp", "regularizer_interval": 4, "discriminator_steps": 2},
        {"engine": "eager", "precision": "float16", "regularizer": "r1"},
        {"engine": "graph", "precision": "float16", "regularizer": "r1"},
        {"engine": "graph", "flips": True, "diff_augment": "color,translation,cutout"},
        pytest.param({"engine": "compiled", "regularizer": "r1"}, marks=on_a_chip),
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
def test_no_step_between_reports_waits(trainer_of, device, settings):
    if settings["engine"] == "compiled" and device == CPU:
        pytest.skip("on a CPU nothing waits, and compiling is tested above")
    trainer = trainer_of(device, **settings, log_every=10**6)
    # Each plan once as it is and once captured: with what health looks at every so often.
    for _ in range(60 if device == CUDA else 6):
        trainer.step()
    trainer.mean_losses()
    trainer.reset_figures()
    before = trainer.step_count
    with nothing_waits(device):
        for _ in range(30 if device == CUDA else 3):
            trainer.step()
    assert trainer.step_count - before == (30 if device == CUDA else 3)
    assert all(loss == loss for loss in trainer.mean_losses().values())


@on()
def test_streamed_images_are_taken_into_graphs(trainer_of, device):
    settings = {"regularizer": "wgan-gp", "discriminator_steps": 2, "precision": "float64"}
    with deterministic(device):
        found, expected = (
            weights_after(trainer_of(device, Streamed, **settings, engine=form), 12) for form in ("graph", "eager")
        )
    assert largest_difference(found, expected) < CLOSE_AFTER_50


@on()
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_run_of_graphs_resumes_bit_for_bit(trainer_of, device, precision):
    """The uninterrupted trainer has its graphs already; the resumed one captures them again."""
    settings = {"engine": "graph", "precision": precision, "regularizer": "r1", "regularizer_interval": 3}
    with deterministic(device):
        whole = trainer_of(device, **settings)
        for _ in range(7):
            whole.step()
        saved = copy.deepcopy(whole.tensors()), copy.deepcopy(whole.state())
        for _ in range(8):
            whole.step()
        expected = copy.deepcopy(whole.tensors())
        resumed = trainer_of(device, **settings)
        resumed.load(*saved)
        for _ in range(8):
            resumed.step()
    assert resumed.state() == whole.state()
    for group, members in resumed.tensors().items():
        for name, tensor in members.items():
            assert torch.equal(tensor, expected[group][name]), f"{group} {name}"


@on()
def test_overflow_in_a_graph_skips_updates_and_the_scale_falls(trainer_of, device):
    trainer = trainer_of(device, engine="graph", precision="float16", regularizer="r1")
    scaler = trainer.precision.discriminator_scaler
    scaler.scale(torch.ones((), device=device))  # makes what holds it
    scaler.update(2.0**40)
    before = [p.detach().clone() for p in trainer.discriminator.parameters()]
    scales = []
    for _ in range(4):
        trainer.step()
        scales.append(scaler.get_scale())
    # The first step is eager, what follows is captured and replayed.
    assert scales == [2.0**39, 2.0**38, 2.0**37, 2.0**36]
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters(), strict=True))
    for _ in range(30):
        trainer.step()
    assert scaler.get_scale() < 2.0**20
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters(), strict=True))
    assert trainer.first_non_finite() is None


@pytest.mark.gpu
def test_the_largest_batch_is_found_by_running_out_of_memory():
    """Each image of a trial takes 1 MiB, in a process that may take 64 MiB more than it has."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    cap = torch.cuda.memory_reserved(CUDA) + 64 * 2**20
    tried = []

    def trial(size):
        tried.append(size)
        blocks = [torch.empty(2**20, dtype=torch.uint8, device=CUDA) for _ in range(size)]
        assert len(blocks) == size

    torch.cuda.set_per_process_memory_fraction(cap / total, CUDA)
    try:
        found = largest_batch_size(lambda size: fits_on_gpu(lambda: trial(size), CUDA), multiple=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
        torch.cuda.empty_cache()
    # Blocks of 1 MiB come in segments of two, of which the cap may cut the last; and the search is to within an eighth.
    assert 62 * 7 // 8 <= found <= 64
    assert max(tried) > found, "the search has met the end of the memory"
    torch.ones(2**20, device=CUDA)


@pytest.mark.gpu
def test_running_out_of_memory_in_a_step_says_that_it_does_not_fit(trainer_of):
    """A whole step of an trainer that is thrown away, as `--batch auto` tries it."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(CUDA) + 256 * 2**20) / total, CUDA)
    try:
        for size, fits in ((4, True), (2**18, False), (4, True)):
            # 2**18 images of 16x16 take 256 MiB as floats before any map of them.
            def trial(size=size):
                trainer = trainer_of(CUDA, engine="eager", batch_size=size)
                for _ in range(2):
                    trainer.step()

            assert fits_on_gpu(trial, CUDA) == fits
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
        torch.cuda.empty_cache()
