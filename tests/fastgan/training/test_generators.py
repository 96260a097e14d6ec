import pytest
import torch

import fastgan
from fastgan.errors import InputError
from fastgan.sampling import generate
from fastgan.training.checkpoints import load_averaged_generator
from fastgan.training.loop import start_run


def test_a_run_and_an_export_of_it_are_one_generator(tmp_path, tiny, console):
    start_run(tiny(model="vanilla", steps=2), tmp_path / "run", console=console)
    generator = fastgan.load_generator(tmp_path / "run")
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    averaged, step = load_averaged_generator(tmp_path / "run", torch.device("cpu"))
    assert torch.equal(generate(generator, 3), generate(averaged, 3))
    fastgan.save_generator(generator, tmp_path / "export", step=step)
    assert torch.equal(generate(fastgan.load_generator(str(tmp_path / "export"), "auto"), 3), generate(averaged, 3))


@pytest.mark.parametrize(
    ("folder", "device", "error", "sentence"),
    [
        (None, "cpu", TypeError, "load_generator: folder is a NoneType, expected a path"),
        (b"run", "cpu", TypeError, "load_generator: folder is a bytes, expected a path"),
        (
            "/nowhere",
            "cpu",
            InputError,
            "'/nowhere' is not there; expected a folder that 'fastgan train' or 'fast",
        ),
        ("/dev/null", "cpu", InputError, "'/dev/null' is neither a run with a checkpoint nor an export; expected a "),
        ("EMPTY", "cpu", InputError, "is neither a run with a checkpoint nor an export; expected a folder"),
        ("EMPTY", "gpu", InputError, "device is 'gpu', expected auto, cpu, cuda or cuda:INDEX"),
    ],
)
def test_what_is_neither_is_one_sentence(tmp_path, folder, device, error, sentence):
    with pytest.raises(error) as caught:
        fastgan.load_generator(tmp_path if folder == "EMPTY" else folder, device)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
