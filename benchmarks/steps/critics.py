"""The whole discriminator step of WGAN-GP and of a GAN with R1: three losses, one of them of second order, and their
gradients in every parameter. The optimizer is not part of it: it is torch's for all.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.passes import Call, Outputs
from benchmarks.registry import Problem
from benchmarks.steps.networks import Images, build, build_accelerated, dcgan28_critic, dcgan_critic
from benchmarks.steps.networks import stylegan_discriminator as stylegan
from benchmarks.steps.step import Setting, Step
from fastgan.regularizers import Critic, compile_step, r1, wgan_gp

Loss = Callable[[Critic, Images], Tensor]
Network = Callable[[int, int, int], nn.Module]


def _wgan_gp(critic: Critic, images: Images) -> Tensor:
    penalty = wgan_gp(critic, images.real, images.fake, alpha=images.alpha)
    return critic(images.fake).mean() - critic(images.real).mean() + penalty


def _plain_wgan_gp(critic: Critic, images: Images) -> Tensor:
    points = images.alpha * images.real + (1 - images.alpha) * images.fake + images.zero
    norms = _gradient(critic, points).flatten(1).norm(2, dim=1)
    return critic(images.fake).mean() - critic(images.real).mean() + 10 * (norms - 1).square().mean()


def _r1(critic: Critic, images: Images) -> Tensor:
    return _logistic(critic, images) + r1(critic, images.real)


def _plain_r1(critic: Critic, images: Images) -> Tensor:
    return (
        _logistic(critic, images) + 5 * _gradient(critic, images.real + images.zero).square().flatten(1).sum(1).mean()
    )


def _logistic(critic: Critic, images: Images) -> Tensor:
    return F.softplus(critic(images.fake)).mean() + F.softplus(-critic(images.real)).mean()


def _gradient(critic: Critic, points: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(critic(points).float().sum(), points, create_graph=True)
    return gradient


def _providers(fused: Loss, plain: Loss, networks: Mapping[str, Network]) -> dict[str, Callable[[Setting], Call]]:
    def provider(loss: Loss, build_critic: Callable[[Network, Setting], tuple[nn.Module, Images]], compiled: bool):
        def call_of(setting: Setting) -> Call:
            critic, images = build_critic(networks[setting.problem.name], setting)
            parameters = list(critic.parameters())

            def step(images: Images) -> Outputs:
                with setting.autocast():
                    value = loss(critic, images)
                return value.detach(), *torch.autograd.grad(value, parameters)

            call = compile_step(step, backend=setting.compile_backend, dynamic=False) if compiled else step
            return lambda: call(images)

        return call_of

    return {
        "fused": provider(fused, build_accelerated, compiled=False),
        "eager": provider(plain, build, compiled=False),
        "compile": provider(plain, build, compiled=True),
        "fused_compile": provider(fused, build_accelerated, compiled=True),
    }


WGAN_GP = Step(
    name="wgan_gp_step",
    pass_="step",
    problems=(
        Problem("dcgan28_critic", (64, 1, 28, 16), "WGAN-GP critic with the DCGAN 28 trunk, batch 64", key=True),
        Problem("dcgan64_critic", (64, 3, 64, 128), "WGAN-GP critic with the DCGAN 64 trunk, batch 64", key=True),
    ),
    toy_problems=(Problem("toy_critic", (2, 1, 8, 2), "none: a size for a CPU", key=True),),
    providers=_providers(
        _wgan_gp,
        _plain_wgan_gp,
        {"dcgan28_critic": dcgan28_critic, "dcgan64_critic": dcgan_critic, "toy_critic": dcgan28_critic},
    ),
)

R1 = Step(
    name="r1_step",
    pass_="step",
    problems=(
        Problem("stylegan_d_64", (16, 3, 64, 256), "StyleGAN discriminator at 64 px, sixteen samples", key=True),
        Problem("stylegan_d_256", (8, 3, 256, 64), "StyleGAN discriminator at 256 px, eight samples", key=True),
    ),
    toy_problems=(Problem("toy_stylegan_d", (2, 1, 8, 1), "none: a size for a CPU", key=True),),
    providers=_providers(
        _r1, _plain_r1, {"stylegan_d_64": stylegan, "stylegan_d_256": stylegan, "toy_stylegan_d": stylegan}
    ),
)
