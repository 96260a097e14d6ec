import torch
from torch import nn

from fastgan.training.ema import EMA


def network(value):
    module = nn.BatchNorm1d(2)
    for tensor in module.state_dict().values():
        tensor.fill_(value)
    return module


def test_the_average_is_the_formula_with_its_ramp():
    source = network(0.0)
    averaged = EMA(source, 0.25)
    expected = 0.0
    for step in range(1, 6):
        source.load_state_dict(network(float(step)).state_dict())
        averaged.update()
        # (1 + t) / (10 + t) is 2/11, 3/12 = 0.25, 4/13 ...: the ramp ends at step 2.
        decay = 2 / 11 if step == 1 else 0.25
        expected = decay * expected + (1 - decay) * step
        assert torch.allclose(averaged.module.weight, torch.tensor(expected), rtol=1e-6, atol=0)
        assert torch.allclose(averaged.module.running_var, torch.tensor(expected), rtol=1e-6, atol=0)
        assert averaged.module.num_batches_tracked == step


def test_no_decay_is_a_copy():
    source = network(1.0)
    averaged = EMA(source, 0.0)
    source.load_state_dict(network(7.0).state_dict())
    averaged.update()
    for a, b in zip(averaged.module.state_dict().values(), source.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_average_neither_trains_nor_shares_memory():
    source = network(1.0).train()
    averaged = EMA(source, 0.9)
    assert not averaged.module.training
    assert not any(p.requires_grad for p in averaged.module.parameters())
    with torch.no_grad():
        source.weight += 1
    assert averaged.module.weight.tolist() == [1.0, 1.0]


def test_with_a_share_the_half_life_is_at_most_that_share_of_the_steps():
    source = network(1.0)
    averaged = EMA(source, 0.5, ramp_up=0.1)
    averaged.module.load_state_dict(network(0.0).state_dict())
    expected = 0.0
    for step in range(1, 15):
        averaged.update()
        decay = 0.5 ** (1 / (0.1 * step)) if step < 10 else 0.5  # a half-life of one step is reached at 10
        expected = decay * expected + (1 - decay)
        assert torch.allclose(averaged.module.weight, torch.tensor(expected), rtol=1e-6, atol=0)


def test_a_half_life_takes_the_place_of_decay_and_ramp():
    source = network(1.0)
    averaged = EMA(source, 0.999)
    averaged.module.load_state_dict(network(0.0).state_dict())
    averaged.set_step(1, half_life=2.0)
    averaged.average()
    averaged.set_step(2, half_life=2.0)
    averaged.average()
    assert torch.allclose(averaged.module.weight, torch.tensor(0.5))
    averaged.set_step(3, half_life=0.0)  # no averaging
    averaged.average()
    assert torch.equal(averaged.module.weight, source.weight)


def test_updates_count_themselves_and_a_count_is_taken_over():
    source = network(1.0)
    averages = EMA(source), EMA(source)
    for averaged in averages:
        averaged.module.load_state_dict(network(0.0).state_dict())
    for _ in range(3):
        averages[0].update()
    averages[1].module.load_state_dict(averages[0].module.state_dict())
    averages[1].num_updates = averages[0].num_updates
    for averaged in averages:
        averaged.update()
    assert torch.equal(averages[0].module.weight, averages[1].module.weight)
    assert averages[1].num_updates == 4


def test_networks_that_keep_graphs_are_copied():
    layer = nn.utils.spectral_norm(nn.Linear(3, 3))
    layer(torch.ones(1, 3))
    averaged = EMA(layer)
    assert torch.equal(averaged.module.weight, layer.weight)
    assert averaged.module.weight.grad_fn is None
    assert layer.weight.grad_fn is not None
