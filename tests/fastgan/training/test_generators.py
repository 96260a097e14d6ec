import pytest
import torch

import fastgan
from fastgan.sampling import generate
from fastgan.training.checkpoint import load_trained_generator
from fastgan.training.run import start_run


def test_a_run_and_an_export_of_it_are_one_generator(tmp_path, tiny, console):
    start_run(tiny(model="vanilla", steps=2), tmp_path / "run", console=console)
    generator = fastgan.load_generator(tmp_path / "run")
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    averaged, step = load_trained_generator(tmp_path / "run", torch.device("cpu"))
    assert torch.equal(generate(generator, 3), generate(averaged, 3))
    fastgan.save_generator(generator, tmp_path / "export", step=step)
    assert torch.equal(generate(fastgan.load_generator(str(tmp_path / "export"), "auto"), 3), generate(averaged, 3))


def test_an_argument_of_another_type_is_one_sentence():
    with pytest.raises(TypeError, match=r"^load_generator: folder is a NoneType, expected a path$"):
        fastgan.load_generator(None)
    with pytest.raises(TypeError, match=r"^load_generator: model is a int, expected a function, its name or a module$"):
        fastgan.load_generator("run", model=5)
