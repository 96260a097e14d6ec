"""Progressive growing: the schedule, and that a step trains what the schedule says."""

import pytest
import torch
from torch.nn.functional import avg_pool2d

from fastgan.data import normalize
from fastgan.data.sources import ResidentImages
from fastgan.training.checkpoint import load_trained_generator, save_checkpoint
from fastgan.training.config import SettingsError
from fastgan.training.progressive import GrowingSchedule, Stage
from fastgan.training.run import start_run
from fastgan.training.step import at_resolution
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")
GROWING = {"model": "growing", "grow_from": 4, "grow_stable_steps": 2, "grow_fade_steps": 3, "lr": 1e-3}


def test_each_resolution_fades_in_and_stays(tiny):
    schedule = GrowingSchedule(tiny(**GROWING))
    found = [(stage.resolution, stage.fade) for stage in map(schedule.at, range(14))]
    assert schedule.growing_steps == 10
    first, second = [(4, 1.0)] * 2, [(8, 0.25), (8, 0.5), (8, 0.75), (8, 1.0), (8, 1.0)]
    assert found == [*first, *second, (16, 0.25), (16, 0.5), (16, 0.75), *[(16, 1.0)] * 4]


def test_without_a_fade_the_next_resolution_is_there_at_once(tiny):
    schedule = GrowingSchedule(tiny(**GROWING | {"grow_fade_steps": 0}))
    assert [schedule.at(step).resolution for step in range(6)] == [4, 4, 8, 8, 16, 16]
    assert {schedule.at(step).fade for step in range(6)} == {1.0}


def test_batch_sizes_and_rates_are_those_of_the_resolution(tiny):
    schedule = GrowingSchedule(tiny(**GROWING, batch_sizes="4:32,8:16", lrs="16:0.002"))
    assert schedule.at(0) == Stage(4, 1.0, 32, 1e-3, 1e-3)
    assert schedule.at(3) == Stage(8, 0.5, 16, 1e-3, 1e-3)
    assert schedule.at(99) == Stage(16, 1.0, 6, 2e-3, 2e-3)


def test_what_does_not_grow_has_one_stage(tiny):
    schedule = GrowingSchedule(tiny(generator_lr=1e-3, discriminator_lr=4e-3))
    assert schedule.at(0) is schedule.at(10**6)
    assert schedule.growing_steps == 0
    assert schedule.at(0) == Stage(16, 1.0, 6, 1e-3, 4e-3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"grow_from": 6}, "grow_from is 6, which does not double to the resolution 16; expected 16 halved some times"),
        ({"grow_from": 32}, "grow_from is 32, which does not double to the resolution 16"),
        ({"batch_sizes": "12:8"}, "batch_sizes names the resolution 12, and the run has 4, 8, 16"),
        ({"batch_sizes": "8:8, 8:4"}, "batch_sizes names the resolution 8 twice"),
        ({"batch_sizes": "8:1"}, "batch_sizes has '1' at resolution 8, expected an integer from 2 to 1048576"),
        ({"batch_sizes": "8:2.5"}, "batch_sizes has '2.5' at resolution 8, expected an integer from 2 to 1048576"),
        ({"lrs": "8:2"}, "lrs has '2' at resolution 8, expected a number above 0 and at most 1"),
        ({"lrs": "8:e-e"}, "lrs has 'e-e' at resolution 8, expected a number above 0 and at most 1"),
        ({"lrs": "8:0.1", "generator_lr": 0.1}, "lrs gives both networks one learning rate, so it excludes"),
        ({"batch_sizes": "8=4"}, "setting 'batch_sizes' is '8=4', expected batch sizes of single resolutions, such as"),
        ({"batch_sizes": "8:4,"}, "setting 'batch_sizes' is '8:4,', expected"),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_is_refused(tiny, settings, sentence):
    with pytest.raises(SettingsError) as refusal:
        GrowingSchedule(tiny(**GROWING | settings))
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


def test_networks_that_do_not_grow_are_refused(tiny, images):
    with pytest.raises(SettingsError, match=r"^grow_from is 4, and the networks of model 'plain' do not grow$"):
        Trainer.from_config(tiny(**GROWING | {"model": "plain"}), ResidentImages(images, None, CPU))


def test_a_step_trains_the_resolution_fade_batch_and_rate_of_its_stage(tiny, images):
    trainer = Trainer.from_config(
        tiny(**GROWING, batch_sizes="4:8, 8:5", lrs="8:0.25"), ResidentImages(images, None, CPU)
    )
    rates = []
    for optimizer in (trainer.generator_optimizer, trainer.discriminator_optimizer):
        optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    for step in range(12):
        stage = trainer.schedule.at(step)
        trainer.discriminator.seen.clear()
        trainer.step()
        # Real and fake in the discriminator's phase, fake in the generator's.
        assert trainer.discriminator.seen == [(stage.resolution, pytest.approx(stage.fade), stage.batch_size)] * 3
        assert rates[-2:] == [stage.generator_lr, stage.discriminator_lr]
        assert trainer.ema.module.resolution == stage.resolution
        assert trainer.ema.module.fade.item() == pytest.approx(stage.fade)
    assert trainer.num_images == 2 * 8 + 5 * 5 + 5 * 6


def test_real_images_are_averaged_and_blended_as_the_networks_blend(images):
    real = normalize(images)
    torch.testing.assert_close(at_resolution(real, 16), real, rtol=0, atol=0)
    torch.testing.assert_close(at_resolution(real, 4), avg_pool2d(real, 4))
    blended = at_resolution(real, 8, torch.tensor(0.25))
    half, quarter = avg_pool2d(real, 2), avg_pool2d(real, 4)
    for row in range(8):
        for column in range(8):
            expected = 0.25 * half[..., row, column] + 0.75 * quarter[..., row // 2, column // 2]
            torch.testing.assert_close(blended[..., row, column], expected)


@pytest.mark.parametrize(("steps", "told"), [(9, True), (10, True), (11, False)])
def test_a_run_that_ends_before_it_has_grown_up_says_so(tmp_path, tiny, console, steps, told):
    start_run(tiny(**GROWING, steps=steps), tmp_path, console=console)
    note = f"takes more than 10 steps, and the run ends at step {steps}, at 16x16 that has not faded in"
    assert (note in console.file.getvalue()) == told


def test_a_saved_generator_is_as_far_as_it_had_grown(tmp_path, tiny, images):
    trainer = Trainer.from_config(tiny(**GROWING), ResidentImages(images, None, CPU))
    for _ in range(4):
        trainer.step()
    save_checkpoint(tmp_path, 4, trainer.tensors(), trainer.state())
    generator, _ = load_trained_generator(tmp_path, CPU)
    assert (generator.resolution, generator.fade.item()) == (8, 0.5)
