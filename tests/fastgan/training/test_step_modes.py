"""Compiled steps, steps in parts, and steps in other types: each against the eager step in float64 or float32."""

import copy
import re

import pytest
import torch
from torch import nn

from fastgan.data.sources import ResidentImages
from fastgan.training import compiled as compiled_module
from fastgan.training.checkpoint import load_tensors, save_checkpoint
from fastgan.training.compiled import Compiled
from fastgan.training.config import SettingsError
from fastgan.training.trainer import Trainer

CPU = torch.device("cpu")
PENALIZED = {"model": "plain", "loss": "wasserstein", "regularizer": "wgan-gp", "discriminator_steps": 2}
LABELS = torch.arange(20) % 3


@pytest.fixture
def trainer_of(tiny, images):
    """Engines whose compiler is torch's without its code generator, which takes most of the time."""
    torch._dynamo.reset()

    def make(**settings):
        config = tiny(**settings)
        own = images if config.resolution == 16 else nn.functional.pad(images, [(config.resolution - 16) // 2] * 4)
        return Trainer.from_config(config, ResidentImages(own, LABELS, CPU), compile_backend="aot_eager")

    return make


def train(trainer, steps):
    for _ in range(steps):
        trainer.step()


def weights_after(trainer, steps):
    torch.manual_seed(2)
    train(trainer, steps)
    networks = trainer.generator, trainer.discriminator, trainer.ema.module
    return [t for network in networks for t in network.state_dict().values() if t.is_floating_point()]


def largest_difference(found, expected):
    return max(((a - b).norm() / b.norm().clamp_min(1e-30)).item() for a, b in zip(found, expected, strict=True))


# After some steps of Adam in float64, whose first steps have the size of the rate whatever the gradient's: what
# rounding leaves of a gradient that is zero stays below Adam's eps of 1e-8. A lost term shows in the second digit.
CLOSE = 1e-9


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "plain", "regularizer": "r1", "regularizer_interval": 2, "spectral_norm": True},
        pytest.param(
            {"model": "wgan-gp", "conditional": True, "regularizer": "wgan-gp", "loss": "wasserstein"},
            marks=pytest.mark.exhaustive,
        ),
        pytest.param({"resolution": 28}, marks=pytest.mark.exhaustive),  # which has dropout
    ],
    ids=lambda s: s.get("model", "dcgan"),
)
def test_a_compiled_step_is_the_eager_step(trainer_of, settings):
    compiled = trainer_of(**settings, engine="compiled", precision="float64")
    eager = trainer_of(**settings, engine="eager", precision="float64")
    eager.gan_step.mode.reuses_fakes = False  # images are made again, with new noise, as compiled steps do
    assert compiled.mode == "compiled"
    assert largest_difference(weights_after(compiled, 4), weights_after(eager, 4)) < CLOSE


def test_a_compiled_gradient_lies_in_memory_as_its_parameter():
    """That of StyleGAN's constant map did not with channels_last, and torch's fused Adam takes it for granted."""
    torch._dynamo.reset()
    parameter = nn.Parameter(torch.randn(1, 4, 3, 3).to(memory_format=torch.channels_last))
    factor = torch.randn(1, 4, 3, 3)
    compiled = Compiled([], 1e-7, pytest.fail, backend="aot_eager")
    for count in (1, 2):  # the gradient as it comes, and one that is added
        compiled.backward(lambda x: ((parameter.contiguous() * x).sum(),), [parameter], None, factor)
        assert parameter.grad.stride() == parameter.stride()
        assert torch.equal(parameter.grad, count * factor)


def assert_eager_from_now_on(trainer, eager, sentence, caplog):
    """After steps that were to be compiled: weights of the eager ones, and one sentence."""
    eager.gan_step.mode.reuses_fakes = False
    assert largest_difference(weights_after(trainer, 3), weights_after(eager, 3)) == 0
    assert trainer.mode == "eager"
    assert [r.getMessage() for r in caplog.records if r.name.startswith("fastgan.")] == [trainer.mode_reason]
    assert re.fullmatch(sentence, trainer.mode_reason)


def test_a_compiled_step_that_differs_is_run_eagerly(trainer_of, monkeypatch, caplog):
    def without_second_order(step, **options):
        def wrong(*batch):
            outputs, gradients = step(*batch)
            return outputs, tuple(None if g is None else g * 0.9 for g in gradients)

        return wrong

    monkeypatch.setattr(compiled_module, "compile_step", without_second_order)
    trainer, eager = trainer_of(**PENALIZED, engine="compiled"), trainer_of(**PENALIZED)
    sentence = r"a compiled step of this run differs from the eager one by 0\.1 .*, so steps run without torch\.compile"
    assert_eager_from_now_on(trainer, eager, sentence, caplog)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_what_torch_cannot_compile_is_run_eagerly_and_the_line_is_named(trainer_of, caplog, network):
    def hook(*_):
        print()

    trainer, eager = trainer_of(**PENALIZED, engine="compiled"), trainer_of(**PENALIZED)
    getattr(trainer, network).register_forward_hook(hook)
    line = rf"\(test_step_modes\.py:{hook.__code__.co_firstlineno + 1}\)"
    sentence = rf"torch\.compile fails on a step of this run: .* {line}, so steps run without torch\.compile"
    assert_eager_from_now_on(trainer, eager, sentence, caplog)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"engine": "graph"}, "engine is 'graph', which needs a CUDA device, and the run is on cpu"),
        ({"engine": "compiled", "precision": "float16"}, "engine is 'compiled' with precision 'float16'; expected"),
        (
            {"accumulate": 4},
            "the batch size is 6, with 1 ranks and accumulate 4; expected a multiple of 4, and",
        ),
        (
            {"accumulate": 6},
            "the batch size is 6, with 1 ranks and accumulate 6; expected a multiple of 6, and",
        ),
    ],
    ids=str,
)
def test_a_form_that_there_is_not_is_refused(trainer_of, settings, sentence):
    with pytest.raises(SettingsError) as refusal:
        trainer_of(**settings)
    assert str(refusal.value).startswith(sentence)


def test_the_default_on_the_cpu_is_eager_and_says_why(trainer_of):
    trainer = trainer_of()
    assert (trainer.mode, trainer.mode_reason) == ("eager", "CUDA graphs need a GPU")


@pytest.mark.parametrize("settings", [PENALIZED, {"model": "plain", "regularizer": "r1", "loss": "hinge"}])
def test_a_batch_in_parts_is_the_whole_batch(trainer_of, settings):
    """Of networks that look at one sample at a time."""
    whole, parts = (trainer_of(**settings, precision="float64", accumulate=n) for n in (1, 3))
    seen = []
    parts.discriminator.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    assert largest_difference(weights_after(parts, 4), weights_after(whole, 4)) < CLOSE
    assert set(seen) == {2}
    assert parts.mean_losses() == pytest.approx(whole.mean_losses(), rel=1e-5)


def test_parts_have_the_labels_of_their_images(tiny):
    images = (torch.arange(20) % 3 * 60).to(torch.uint8)[:, None, None, None].expand(20, 1, 16, 16)
    config = tiny(model="wgan-gp", conditional=True, regularizer="wgan-gp", accumulate=3)
    trainer = Trainer.from_config(config, ResidentImages(images.contiguous(), LABELS, CPU))
    pairs = []
    loss = trainer.gan_step.discriminator_loss
    trainer.gan_step.discriminator_loss = lambda *given: (pairs.append(given), loss(*given))[1]
    trainer.step()
    assert len(pairs) == 3
    for real, _, labels in pairs:
        assert torch.equal(((real[:, 0, 0, 0] + 1) * 127.5 / 60).round().long(), labels)


def gradients_of(trainer):
    """Of the discriminator before its update, and of the generator before its."""
    found = []
    for optimizer, network in (
        (trainer.discriminator_optimizer, trainer.discriminator),
        (trainer.generator_optimizer, trainer.generator),
    ):
        # An optimizer that takes the scale of the gradients in hand finds them unscaled when it is done.
        optimizer.register_step_post_hook(
            lambda *_, network=network: found.append([p.grad.clone() for p in network.parameters()])
        )
    trainer.step()
    return found


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("regularizer", ["wgan-gp", "r1"])
def test_gradients_in_reduced_precision_are_those_of_float32(trainer_of, precision, regularizer):
    """As far as the type has digits: a gradient is a chain of a few roundings, the second order of twice as many."""
    settings = {"model": "plain", "regularizer": regularizer, "discriminator_lr": 1e-30}
    reduced, full = (trainer_of(**settings, precision=p) for p in (precision, "float32"))
    for scaler in reduced.precision.scalers().values():
        set_scale(scaler, 2.0**8)  # from where nothing overflows, so that no update is left out
    eps = torch.finfo(getattr(torch, precision)).eps
    for found, expected in zip(gradients_of(reduced), gradients_of(full), strict=True):
        assert {a.dtype for a in found} == {torch.float32}
        a, b = (torch.cat([t.flatten() for t in tensors]) for tensors in (found, expected))
        assert (a - b).norm() <= 8 * eps * b.norm()


def test_weights_and_images_stay_float32_under_autocast(trainer_of):
    trainer = trainer_of(model="plain", precision="bfloat16")
    seen = []
    trainer.discriminator[0].register_forward_hook(lambda _, args, out: seen.append((args[0].dtype, out.dtype)))
    trainer.step()
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert {p.dtype for p in trainer.generator.parameters()} == {torch.float32}


def test_float16_gradients_too_small_for_the_type_survive(trainer_of):
    """At 1e-9 of its size the loss has gradients below the 6e-8 that float16 holds."""

    class Small:
        relativistic = False

        def discriminator(self, real, fake):
            return (fake.mean() - real.mean()) * 1e-9

        def generator(self, fake, real):
            return -fake.mean() * 1e-9

    results = []
    for precision in ("float16", "float32"):
        trainer = trainer_of(model="plain", precision=precision)
        trainer.gan_step.loss = Small()
        results.append(gradients_of(trainer))
    for found, expected in zip(results[0][1], results[1][1], strict=True):
        assert (found - expected).norm() <= 0.2 * expected.norm()
        assert found.norm() > 0


def test_a_float16_penalty_sees_gradients_too_small_for_the_type(trainer_of):
    penalties = []
    for precision in ("float16", "float32"):
        trainer = trainer_of(model="plain", regularizer="r1", regularizer_weight=1e12, precision=precision)
        trainer.discriminator.register_forward_hook(lambda _, args, logits: logits.float() * 1e-7)
        trainer.step()
        penalties.append(trainer.mean_losses()["penalty"])
    assert penalties[0] == pytest.approx(penalties[1], rel=0.05)
    assert penalties[1] > 1e-4


def set_scale(scaler, scale):
    scaler.scale(torch.ones(()))  # makes what holds it
    scaler.update(scale)
    return scaler


def test_an_overflow_skips_the_update_and_halves_the_scale(trainer_of):
    trainer = trainer_of(model="plain", precision="float16", regularizer="r1")
    scaler = set_scale(trainer.precision.discriminator_scaler, 2.0**40)
    before = [p.clone() for p in trainer.discriminator.parameters()]
    trainer.step()
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.discriminator.parameters(), strict=True))
    assert trainer.first_non_finite() is None
    assert all(torch.isfinite(torch.tensor(list(trainer.mean_losses().values()))))
    for _ in range(30):
        trainer.step()
    assert scaler.get_scale() < 2.0**20
    assert not torch.equal(before[0], next(trainer.discriminator.parameters()))


def test_a_scale_that_falls_for_good_is_told(trainer_of):
    trainer = trainer_of(model="plain", precision="float16")
    set_scale(trainer.precision.generator_scaler, 0.5)
    assert trainer.first_non_finite().name == "gradient under generator_scaler"


def test_scales_are_saved_and_go_on(trainer_of):
    first, second = (trainer_of(model="plain", precision="float16") for _ in range(2))
    set_scale(first.precision.discriminator_scaler, 2.0**9)
    first.step()
    second.load(copy.deepcopy(first.tensors()), first.state())
    for _ in range(2):
        first.step()
        second.step()
    assert second.state() == first.state()
    assert second.state()["scalers"]["discriminator_scaler"]["scale"] == 2.0**9
    assert torch.equal(*(next(e.discriminator.parameters()) for e in (first, second)))


@pytest.mark.parametrize(("before", "after"), [(True, True), (False, True), (True, False)])
def test_a_layout_is_not_lost_on_the_way_through_a_file(trainer_of, tmp_path, before, after):
    """Switched on or off at a checkpoint, or left on; a file holds every tensor row by row."""
    settings = {"resolution": 16, "model": "sngan", "precision": "float64"}
    straight = trainer_of(**settings, channels_last=before)
    torch.manual_seed(2)
    train(straight, 2)
    folder, state = save_checkpoint(tmp_path, 2, straight.tensors(), {}), straight.state()
    train(straight, 3)
    resumed = trainer_of(**settings, channels_last=after)
    resumed.load({group: load_tensors(folder, group) for group in straight.tensors()}, state)
    train(resumed, 3)
    for group in ("generator", "discriminator", "averaged_generator", "training"):
        found, expected = resumed.tensors()[group], straight.tensors()[group]
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if before == after:
                assert torch.equal(found[name], value), name
            elif value.is_floating_point() and not name.startswith("statistics."):  # which are float32
                assert (found[name] - value).norm() <= CLOSE * value.norm().clamp_min(1e-6), name
    for optimizer in (resumed.generator_optimizer, resumed.discriminator_optimizer):
        for parameter, averages in optimizer.state.items():
            assert {averages[name].stride() for name in ("exp_avg", "exp_avg_sq")} == {parameter.stride()}


def test_channels_last_is_a_layout_and_nothing_else(trainer_of):
    settings = {"resolution": 16, "precision": "float64"}
    plain, last = trainer_of(**settings), trainer_of(**settings, channels_last=True)
    assert largest_difference(weights_after(last, 3), weights_after(plain, 3)) < CLOSE
    kernels = [p for p in last.discriminator.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    seen = []
    last.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    last.step()
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in seen)
