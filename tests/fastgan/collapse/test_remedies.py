import pytest

from fastgan.collapse.remedies import BENCHES, NONE, choose_remedies, find_bench
from fastgan.training.config import SettingsError


@pytest.mark.parametrize("bench", BENCHES.values(), ids=BENCHES)
def test_a_remedy_changes_its_own_settings_and_nothing_else(bench):
    plain = bench.config(NONE, steps=7, seed=3)
    assert (plain.steps, plain.seed, plain.device, plain.data) == (7, 3, "cpu", bench.data)
    found = {}
    for name, changes in bench.remedies().items():
        config = bench.config(name, steps=7, seed=3)
        found[name] = {key for key in vars(plain) if getattr(config, key) != getattr(plain, key)}
        assert all(getattr(config, key) == value for key, value in changes.items()), name
        assert found[name] <= set(changes), name
    assert not found.pop(NONE)
    assert all(found.values())
    assert found["wgan-gp"] >= {"loss", "regularizer"}


@pytest.mark.parametrize("bench", BENCHES.values(), ids=BENCHES)
def test_the_plain_gan_has_no_remedy_in_it(bench):
    plain = bench.config(NONE, steps=None, seed=0)
    assert plain.steps == bench.settings["steps"]
    assert (plain.regularizer, plain.spectral_norm, plain.minibatch, plain.real_label) == ("none", False, "none", 1.0)
    assert plain.loss == "non-saturating"
    assert plain.model == "mlp"


def test_none_always_comes_first():
    bench = BENCHES["gaussians"]
    assert choose_remedies([], bench) == list(bench.remedies())
    assert choose_remedies(["wgan-gp", "r1", "r1"], bench) == [NONE, "r1", "wgan-gp"]
    assert choose_remedies([NONE], bench) == [NONE]


def test_unknown_names_are_refused_with_those_that_there_are():
    with pytest.raises(SettingsError, match=r"unknown remedy 'r2'; "):
        choose_remedies(["r1", "r2"], BENCHES["gaussians"])
    with pytest.raises(SettingsError, match="unknown --data 'faces'; choose from gaussians, digits"):
        find_bench("faces")
