"""Two ranks with half of each batch, in processes of their own that talk by gloo, against one with the whole."""

import copy
import os
import time
from types import SimpleNamespace

import own_networks
import pytest
import torch
import torch.distributed as dist
from processes import in_processes, on_ranks

from fastgan.data.sources import ResidentImages
from fastgan.training.config import SettingsError
from fastgan.training.distributed import Distributed, GradientSync
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")
LABELS = torch.arange(20) % 3

WGAN_GP = {"model": "plain", "loss": "wasserstein", "regularizer": "wgan-gp", "discriminator_steps": 2}
R1 = {"model": "plain", "regularizer": "r1", "regularizer_interval": 2, "spectral_norm": True, "loss": "logistic"}


def trained(distributed, config, images, steps):
    """Gradients of the discriminator's first update, weights and averages at the end, and losses of the run."""
    trainer = Trainer.from_config(config, images_of(images, distributed), distributed=distributed)
    if config.conditional:
        trainer.generator.eval()  # conditional generators have batch norm, whose statistics are those of one rank
    first = []
    handle = trainer.discriminator_optimizer.register_step_pre_hook(
        lambda *_: first.extend(p.grad.clone() for p in trainer.discriminator.parameters() if p.grad is not None)
    )
    for _ in range(steps):
        trainer.step()
        handle.remove()
    trainer.all_reduce_figures_()
    networks = trainer.generator, trainer.discriminator, trainer.ema.module
    weights = [t.numpy() for network in networks for t in network.state_dict().values()]
    return (
        [t.numpy() for t in first],
        weights,
        trainer.mean_losses(),
        trainer.health_figures(trainer.statistics.read(steps)),
    )


def images_of(images, distributed):
    return ResidentImages(images, LABELS, CPU, rank=distributed.rank, world_size=distributed.world_size)


def difference(found, expected):
    pairs = [(torch.from_numpy(a).double(), torch.from_numpy(b).double()) for a, b in zip(found, expected, strict=True)]
    largest = max(b.norm() for _, b in pairs)
    return max(((a - b).norm() / torch.maximum(b.norm(), 1e-3 * largest)).item() for a, b in pairs)


@pytest.mark.parametrize(
    "settings", [pytest.param(WGAN_GP, marks=pytest.mark.exhaustive), R1], ids=["wgan-gp", "r1-spectral-norm"]
)
def test_two_ranks_train_as_one_process(tiny, images, settings):
    config = tiny(**settings, precision="float64", batch_size=8)
    one = trained(Distributed(), config, images, 20)
    first, second = on_ranks(2, trained, config, images, 20)
    assert difference(first[0], one[0]) < 1e-12
    assert difference(first[1], one[1]) < 1e-9
    for a, b in zip(first[1], second[1], strict=True):
        assert (a == b).all()  # ranks stay equal to the last bit, vectors of spectral norms included
    assert first[2] == second[2] == pytest.approx(one[2], rel=1e-5)
    # Compared by pairs of one rank's part, the others are means of means.
    assert first[3]["real_score"] == second[3]["real_score"] == pytest.approx(one[3]["real_score"], rel=1e-4, abs=1e-6)


def test_ranks_and_parts_at_once(tiny, images):
    settings = WGAN_GP | {"model": "wgan-gp", "conditional": True, "precision": "float64", "batch_size": 8}
    one = trained(Distributed(), tiny(**settings), images, 4)
    first, _ = on_ranks(2, trained, tiny(**settings, accumulate=2), images, 4)
    assert difference(first[1], one[1]) < 1e-9


def test_networks_that_grow_and_follow_batches_stay_equal_on_all_ranks(tiny, images):
    """Layers without a gradient, running statistics of batches, noise and dropout of each rank's own."""
    growing = {"model": "stylegan", "grow_from": 8, "grow_stable_steps": 2, "grow_fade_steps": 2, "base_channels": 8}
    growing |= {"regularizer": "r1", "regularizer_interval": 2, "loss": "logistic", "style_mixing": 0.5}
    for settings in (growing, {"resolution": 28}):
        config = tiny(**settings, batch_size=4)
        data = images if config.resolution == 16 else torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
        first, second = on_ranks(2, trained, config, data, 6)
        for a, b in zip(first[1], second[1], strict=True):
            assert (a == b).all()


def of_the_user(distributed, images):
    torch.manual_seed(distributed.rank)  # as a script that seeds nothing
    settings = {"latent_dim": 8, "batch_size": 4, "device": "cpu"}
    trainer = Trainer(*own_networks.r3gan(), images, distributed=distributed, **settings)
    trainer.step()
    return [t.numpy() for network in (trainer.generator, trainer.ema.module) for t in network.state_dict().values()]


def test_networks_of_the_user_and_their_average_start_equal_on_all_ranks(images):
    for a, b in zip(*on_ranks(2, of_the_user, images), strict=True):
        assert (a == b).all()


def with_fewer_images(distributed, config, images):
    with pytest.raises(SettingsError) as refusal:
        Trainer.from_config(config, images_of(images[distributed.rank :], distributed), distributed=distributed)
    return str(refusal.value)


def test_hosts_with_other_data_are_refused_on_all_ranks(tiny, images):
    sentence = (
        "the data of rank 1 are 19 images of shape [1, 16, 16], and those of rank 0 are 20 images of shape "
        "[1, 16, 16]; expected the same on all hosts"
    )
    assert on_ranks(2, with_fewer_images, tiny(), images) == [sentence] * 2


def noise(distributed, config, images):
    trainer = Trainer.from_config(config, images_of(images, distributed), distributed=distributed)
    return torch.rand(3).tolist(), torch.rand(3, generator=trainer.random).tolist()


def test_ranks_draw_the_same_batches_and_noise_of_their_own(tiny, images):
    (noise_of_first, drawn_by_first), (noise_of_second, drawn_by_second) = on_ranks(2, noise, tiny(), images)
    assert drawn_by_first == drawn_by_second
    assert noise_of_first != noise_of_second


def saved_and_loaded(distributed, config, images):
    """A run in one go and one that is loaded in the middle: its weights, and the files of each rank."""
    trainer = Trainer.from_config(config, images_of(images, distributed), distributed=distributed)
    for _ in range(3):
        trainer.step()
    trainer.all_reduce_figures_()
    state = copy.deepcopy(trainer.tensors()), trainer.state()
    for _ in range(3):
        trainer.step()
    other = Trainer.from_config(config, images_of(images, distributed), distributed=distributed)
    other.load(*state)
    for _ in range(3):
        other.step()
    weights = [[t.numpy() for t in e.generator.state_dict().values()] for e in (trainer, other)]
    return weights, sorted(name for name in state[0]["training"] if name.startswith("random."))


def test_a_state_of_two_ranks_resumes_exactly(tiny):
    data = torch.randint(0, 256, (20, 1, 28, 28), dtype=torch.uint8)
    for weights, names in on_ranks(2, saved_and_loaded, tiny(resolution=28), data):
        assert names == ["random.cpu.0", "random.cpu.1", "random.data", "random.device"]
        assert all((a == b).all() for a, b in zip(*weights, strict=True))


def asked(distributed, *_):
    return distributed.any(distributed.rank == 1), distributed.any(False), distributed.world_size


def test_ranks_agree(tiny):
    assert on_ranks(2, asked) == [(True, False, 2)] * 2


def refused(distributed, config, images):
    with pytest.raises(SettingsError) as refusal:
        Trainer.from_config(config, images_of(images, distributed), distributed=distributed)
    return str(refusal.value)


@pytest.mark.filterwarnings("error")
def test_gradients_are_synchronized_without_torchs_deprecations(tmp_path):
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        sync = GradientSync(
            torch.nn.BatchNorm1d(3), SimpleNamespace(world_size=2, device_group=None), some_unused=False
        )
        assert not sync._ddp.will_sync_module_buffers()
    finally:
        dist.destroy_process_group()


def test_groups_of_one_on_each_rank_are_refused(tiny, images):
    (sentence, _) = on_ranks(2, refused, tiny(batch_size=10, minibatch="stddev"), images)
    assert sentence == (
        "the minibatch standard deviation of a batch of 10 in 2 micro-batches (ranks times accumulate) would be of "
        "groups of one, and constant, as no number from 2 to 4 divides 5; a multiple of 8 gives groups of 4"
    )


def test_a_batch_that_ranks_cannot_share_is_refused(tiny, images):
    (sentence, _) = on_ranks(2, refused, tiny(batch_size=7), images)
    assert sentence == (
        "the batch size is 7, with 2 ranks and accumulate 1; "
        "expected a multiple of 2, and at least 2 images in each micro-batch"
    )


def sum_after_the_first_has_slept(seconds):
    """The sum over the ranks, of which the first enters its address late."""
    if os.environ["RANK"] == "0":
        time.sleep(seconds)
    with Distributed.from_environment() as distributed:
        total = torch.ones(1)
        distributed.all_reduce_mean_([total])
        return total.item()


def test_a_restarted_rank_does_not_call_one_that_has_died():
    """torchrun without ``--rdzv-backend`` keeps one store for all attempts, with the addresses of the first."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launched = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_PORT": str(store.port)}
    for attempt, seconds in enumerate((0, 0.5)):
        environment = {**launched, "TORCHELASTIC_RESTART_COUNT": str(attempt)}
        assert in_processes(2, sum_after_the_first_has_slept, seconds, **environment) == [1, 1]
