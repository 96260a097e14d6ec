import json

import pytest
import safetensors.torch
import torch

import fastgan
from fastgan.exporting import ModelFolderError, card_of, is_model_folder, load_model_folder
from fastgan.models import build_networks
from fastgan.sampling import generate


@pytest.mark.parametrize("name", ["vanilla", "conditional", "stylegan"])
def test_a_generator_comes_back_bit_for_bit(make_generator, tmp_path, name):
    generator = make_generator(name)
    assert not is_model_folder(tmp_path)
    fastgan.save_generator(generator, tmp_path / "new" / "model", step=7)
    assert is_model_folder(tmp_path / "new" / "model")
    loaded, step = load_model_folder(tmp_path / "new" / "model", torch.device("cpu"))
    assert step == 7
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(generate(loaded, 4, seed=1), generate(generator, 4, seed=1))


def test_a_generator_comes_back_as_far_as_it_had_grown(tmp_path):
    generator = build_networks("stylegan", resolution=16, num_channels=1, base_channels=4, latent_dim=4).generator
    generator.grow(8, 0.25)
    fastgan.save_generator(generator, tmp_path)
    loaded = fastgan.load_generator(str(tmp_path))
    images = generate(loaded, 2)
    assert images.shape == (2, 1, 8, 8)
    assert torch.equal(images, generate(generator, 2))


@pytest.fixture
def folder(make_generator, tmp_path):
    fastgan.save_generator(make_generator("vanilla"), tmp_path)
    return tmp_path


FILES = ("config.json", "model.safetensors")


def config(architecture=(), **changes):
    def change(folder):
        before = json.loads((folder / "config.json").read_text())
        before["architecture"] |= dict(architecture)
        (folder / "config.json").write_text(json.dumps(before | changes))

    return change


def architecture(**changes):
    return config(changes)


def content(file, written):
    return lambda folder: (folder / file).write_bytes(written)


def missing(file):
    return lambda folder: (folder / file).unlink()


@pytest.mark.parametrize(
    ("change_files", "sentence"),
    [
        (config(format=2), "config.json' has format 2, expected 1"),
        (config(step="soon"), "config.json' has step 'soon', which does not belong there"),
        (config(growth={"resolution": 8}), "do not fit together: 'Generator' object has no attribute 'grow'"),
        (architecture(model="vanila"), "do not fit together: unknown model 'vanila'"),
        (architecture(latent_dim=-3), "do not fit together: latent_dim is -3, expected at least 1"),
        (architecture(latent_dim=2**45), "has shape [128, 6], expected [128, 35184372088832]"),
        (architecture(num_channels=3), "has shape [784], expected [2352]"),
        (architecture(discriminator=1), "do not fit together: unknown option 'discriminator' of model vanilla"),
        (content("config.json", b"{"), "is damaged"),
        (content("config.json", b"[" * 5000), "is damaged"),
        (content("config.json", b"[]"), "has format None, expected 1"),
        (content("config.json", b" " * 100_000), "has more than 65536 bytes, and is not a config"),
        (content("model.safetensors", b"\x80\x04cos\nsystem\n"), "is damaged"),
        (content("model.safetensors", safetensors.torch.save({"a": torch.zeros(9)})[:-8]), "is damaged"),
        (content("model.safetensors", safetensors.torch.save({"a": torch.zeros(1)})), "together: a has shape [1]"),
        *((missing(file), f"{file}' cannot be read: No such file or directory") for file in FILES),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_in_one_sentence(folder, change_files, sentence):
    """A size that the weights do not have allocates no memory."""
    change_files(folder)
    with pytest.raises(ModelFolderError) as caught:
        fastgan.load_generator(folder)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_card_describes_the_generator_and_what_is_missing(make_generator):
    generator = make_generator("conditional")
    card = card_of(
        generator, name="my-run", step=12000, settings={"data": "photos", "lr": 2e-4}, programs=["`a.pt2`: x"]
    )
    for text in ("# my-run", "[N, 6], and class numbers, 0 to 2,", "| model | dcgan |", "| trained on | photos |"):
        assert text in card
    for text in (
        "| steps | 12,000 |",
        'data = "photos"',
        "- `a.pt2`: x",
        "## License of the data\n\nFill in before sharing",
    ):
        assert text in card
    assert "torch.arange(16) % 3" in card


def test_the_code_on_the_card_works(make_generator, tmp_path, monkeypatch):
    generator = make_generator("conditional")
    fastgan.save_generator(generator, tmp_path / "this folder", card=card_of(generator, name="x"))
    card = (tmp_path / "this folder" / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["images"].shape == (16, 3, 16, 16)


class Own(torch.nn.Linear):
    """A generator of somebody's own."""

    latent_dim = 6

    def __init__(self):
        super().__init__(6, 4)


def of_another_shape():
    generator = build_networks("vanilla", resolution=8, num_channels=1).generator
    generator.architecture["latent_dim"] = 7
    return generator


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (
            Own,
            ModelFolderError,
            "a Own cannot be saved as a model folder: it has no architecture, as the generators of",
        ),
        (of_another_shape, ModelFolderError, "it is not what its architecture builds: "),
        (lambda: {"weight": 1}, TypeError, "save_generator: generator is a dict, expected a torch.nn.Module"),
    ],
)
def test_foreign_generators_are_refused_in_one_sentence(tmp_path, make, error, sentence):
    with pytest.raises(error) as caught:
        fastgan.save_generator(make(), tmp_path / "model")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_folders_and_steps_of_the_wrong_kind(make_generator, tmp_path):
    generator = make_generator("vanilla")
    with pytest.raises(TypeError, match=r"^save_generator: folder is a NoneType, expected a path$"):
        fastgan.save_generator(generator, None)
    with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
        fastgan.save_generator(generator, tmp_path, step="soon")
    fastgan.save_generator(generator, tmp_path, step=torch.tensor(7))
    assert load_model_folder(tmp_path, torch.device("cpu"))[1] == 7


@pytest.mark.exhaustive
def test_a_compiled_generator_is_saved_like_the_original(make_generator, tmp_path):
    generator = make_generator("vanilla")
    fastgan.save_generator(torch.compile(generator), tmp_path)
    assert torch.equal(generate(fastgan.load_generator(tmp_path), 2), generate(generator, 2))
