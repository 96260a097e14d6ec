"""Calls that torch took when the repositories were written are taken where their ops are served, and nothing else."""

import torch
from torch.optim import Adam, AdamW
from torch.utils.data import Sampler

import fastgan.dropin
from tests.fastgan.dropin import trees


class Forever(Sampler):
    """As NVIDIA's ``InfiniteSampler`` calls its parent."""

    def __init__(self, dataset):
        super().__init__(dataset)


class Counted:
    def __init__(self, count=0):
        self.count = count


class Cooperative(Sampler, Counted):
    def __init__(self, count):
        super().__init__(count=count)


def test_old_calls_of_torch_are_taken_once_an_op_is_served(tree):
    trees.nvidia(tree)
    fastgan.dropin.install()
    assert Sampler.__init__ is object.__init__
    import torch_utils.ops.fma

    assert isinstance(Forever([1]), Sampler)
    assert Cooperative(3).count == 3
    weights = [torch.nn.Parameter(torch.zeros(1))]
    assert Adam(weights, lr=0.1, betas=[0, 0.99]).defaults["betas"] == (0.0, 0.99)
    assert Adam(weights, 0.1, (0.5, 0.9)).defaults["betas"] == (0.5, 0.9)
    assert AdamW(weights).defaults["betas"] == (0.9, 0.999)
    (weights[0] * 2).sum().backward()
    Adam(weights, betas=[0, 0.99]).step()
    init = Adam.__init__
    import torch_utils.ops.bias_act  # noqa: F401

    assert Adam.__init__ is init
