"""Every link, snippet and command of the pages, and what they say of settings, presets and files."""

import importlib
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

import fastgan.nn
import fastgan_kernels
from docs.make.site import PAGES, ROOT, gather
from fastgan import cli
from fastgan.cli import app
from fastgan.exporting import save_generator
from fastgan.models import build_networks
from fastgan.regularizers import find_batch_norm
from fastgan.training.build import PENALIZED_PRESETS
from fastgan.training.config import load_preset, parse_assignment, preset_names

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
USING = (DOCS / "using.md").read_text(encoding="utf-8")
SOURCES = sorted([*(ROOT / name for name in PAGES), *DOCS.rglob("*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]*)\)")


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text(encoding="utf-8")))
    return [link for link in LINK.findall(text) if "://" not in link]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in words}


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_pages_of_the_site_link_to_each_other(tmp_path: Path):
    gather(tmp_path / "site", DOCS)
    pages = list((tmp_path / "site").rglob("*.md"))
    assert len(pages) == len(SOURCES)
    for page in pages:
        for link in links(page):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), (page, link)
            assert not anchor or anchor in anchors(target), (page, link)
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(tmp_path / "site")) for page in pages)


SNIPPETS = [
    pytest.param(code, id=f"{page.stem}-{index}")
    for page in SOURCES
    for index, (language, code) in enumerate(FENCED.findall(page.read_text(encoding="utf-8")))
    if language == "python" and page.stem not in ("dropin", "training")
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_every_snippet_runs(code: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    small = build_networks("stylegan", resolution=32, num_channels=1, latent_dim=8, base_channels=8)
    save_generator(small.generator, "runs/stylegan/export")
    exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})


def test_the_snippets_of_training_run_one_after_the_other(tmp_path: Path, monkeypatch):
    """Five short trainings, the longest made shorter, and two evaluations: six seconds."""
    languages = FENCED.findall((DOCS / "training.md").read_text(encoding="utf-8").replace("300", "10"))
    module, *snippets = [code for language, code in languages if language == "python"]
    (tmp_path / "mine.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for code in snippets:
        exec(compile(code, "snippet", "exec"), names)
    assert names["images"].shape == (16, 1, 16, 16)
    commands = [
        line for language, code in languages if not language for line in code.splitlines() if "mine:build" in line
    ]
    assert len(commands) == 5
    for command in (commands[0], commands[2]):
        with pytest.raises(SystemExit) as ended:
            cli.main(shlex.split(command)[1:])
        assert ended.value.code == 0


def test_the_snippets_of_dropin_run(tmp_path: Path):
    """In a process of its own, which takes seconds, with stand-ins for a clone's package and model."""
    (tmp_path / "models" / "stylegan2" / "op").mkdir(parents=True)
    (tmp_path / "models" / "stylegan2" / "op" / "fused_act.py").touch()
    (tmp_path / "model.py").write_text(
        "from torch import nn\nclass FusedLeakyReLU(nn.Module): ...\nclass NoiseInjection(nn.Module): ...\n"
        "class Generator(nn.Module):\n    def __init__(self, *sizes): super().__init__()\n"
    )
    blocks = [code for language, code in FENCED.findall((DOCS / "dropin.md").read_text()) if language == "python"]
    assert len(blocks) == 3
    subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, check=True)


def commands() -> list[str]:
    texts = {page: page.read_text(encoding="utf-8") for page in SOURCES}
    lines = [line for text in texts.values() for _, code in FENCED.findall(text) for line in code.splitlines()]
    lines += [line for text in texts.values() for line in re.findall(r"`(fastgan \w+ runs/[^`]*)`", text)]
    found = (
        re.match(r"(?:pip install -e \. && |torchrun .* -m )?fastgan (\w[^#]*?)( *\.\.\.)? *(#|$)", line)
        for line in lines
    )
    return sorted({match[1] for match in found if match})


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(command: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *args = shlex.split(command)
    for run in (Path(arg) for arg in args if arg.startswith(("runs/", "RUN"))):
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    # Parsed, and not run.
    params = typer.main.get_command(app).commands[name].make_context(name, args).params
    if name == "train":
        assert params["preset"] in preset_names()
        for assignment in params["set_"] or []:
            assert assignment in ("KEY=VALUE", "loss=LOSS") or parse_assignment(assignment)


def test_the_readme_is_short_and_keeps_two_commands_word_for_word():
    assert "\npip install -e . && fastgan train " in README
    assert '\npip install -e ".[test]" && pytest ' in README
    assert len(re.sub(r"[|]|---", "", README).split()) < 1000
    assert all(f"`{name}`" in README for name in preset_names())


def test_the_resolutions_of_each_model_are_those_of_the_readme():
    for name, resolutions in (("dcgan", "28; powers of 2 from 16 to 256"), ("stylegan", "powers of 2 from 8 to 1024")):
        with pytest.raises(ValueError, match="has no networks for resolution 3, only for") as caught:
            build_networks(name, resolution=3, num_channels=1)
        found = {int(number) for number in re.findall(r"\d+", str(caught.value).partition("only for")[2])}
        low, high = (int(number) for number in re.findall(r"\d+", resolutions.replace("28; powers of 2", ""))[-2:])
        assert found - {28} == {2**i for i in range(3, 11) if low <= 2**i <= high}
        assert re.search(rf"\| `{name}`[^\n]*\| {resolutions} \|", README)


def test_the_presets_that_take_a_gradient_penalty_are_named():
    able = []
    for name in preset_names():
        config = load_preset(name)
        networks = build_networks(config["model"], resolution=config["resolution"], num_channels=1, base_channels=8)
        if find_batch_norm(networks.discriminator) is None and name != "gaussians-collapse":
            able.append(name)
    named = re.findall(r"[\w-]+", PENALIZED_PRESETS.replace(" and ", ", "))
    assert sorted(named) == able
    *others, last = [f"`{name}`" for name in named]
    assert f"the presets {', '.join(others)} and {last} take it" in (DOCS / "training.md").read_text(encoding="utf-8")


def test_the_files_of_a_run_are_listed(fastgan_run: Path):
    page = (DOCS / "training.md").read_text(encoding="utf-8")
    listing = FENCED.findall(page[page.index("## The folder of a run") :])[0][1]
    for path in fastgan_run.iterdir():
        assert re.search(rf"^  {path.name}\b", listing, re.MULTILINE), path
    for path in (fastgan_run / "checkpoints" / "2").iterdir():
        assert path.name.removesuffix(".safetensors") in listing, path


@pytest.fixture
def fastgan_run(tmp_path: Path) -> Path:
    from fastgan import cli

    tiny = ["--set", "resolution=16", "--set", "base_channels=4", "--set", "batch_size=4", "--device", "cpu"]
    with pytest.raises(SystemExit):
        cli.main(["train", "--out", str(tmp_path / "run"), "--steps", "2", *tiny])
    return tmp_path / "run"


def test_the_reference_names_what_there_is():
    documented = re.findall(
        r"^::: ([\w.]+)$", "".join(p.read_text() for p in (DOCS / "api").glob("*.md")), re.MULTILINE
    )
    assert len(set(documented)) == len(documented)
    for name in documented:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name
    names = {name.rpartition(".")[2] for name in documented}
    layers = {
        name for name, value in vars(fastgan.nn).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert layers | set(fastgan_kernels.__all__) <= names


def test_every_picture_of_using_is_there_small_and_made_by_a_command_above_it():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", USING)
    assert len(pictures) >= 10
    for name in set(pictures) - {"explorer.png"}:
        assert USING.index(f"--out pictures/{name.removeprefix('using-')}`") < USING.index(f"({name})")
    assert all((DOCS / name).stat().st_size < 200_000 for name in pictures)
