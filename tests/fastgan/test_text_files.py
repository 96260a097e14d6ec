"""Every text file that is read may have been saved by an editor on Windows: a byte order mark, CR LF at line ends."""

import codecs
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import results
from fastgan.data import load_dataset


def saved_on_windows(path):
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_a_run_and_its_settings(fastgan, tmp_path, cache):
    settings, run = tmp_path / "settings.toml", tmp_path / "run"
    settings.write_text('# settings\nmodel = "vanilla"\nbatch_size = 4\nsteps = 2\nlog_every = 1\ndevice = "cpu"\n')
    saved_on_windows(settings)
    assert fastgan("train", "--config", settings, "--out", run)[0] == 0
    for path in (run / "config.toml", run / "metrics.jsonl", run / "checkpoints" / "2" / "SHA256SUMS"):
        saved_on_windows(path)
    assert fastgan("train", "--resume", run, "--steps", 3)[0] == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]

    assert fastgan("evaluate", run, "--count", 20)[0] == 0
    report = run / "evaluation" / "report.json"
    saved_on_windows(report)
    assert fastgan("evaluate", run, report, "--count", 20, "--out", tmp_path / "both")[0] == 0
    assert fastgan("export", run, "--out", tmp_path / "model")[0] == 0
    assert "FID" in (tmp_path / "model" / "README.md").read_text().upper()
    saved_on_windows(tmp_path / "model" / "config.json")
    assert fastgan("generate", tmp_path / "model", "--count", 2, "--out", tmp_path / "some.png")[0] == 0


def test_the_labels_of_images(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "dataset.json").write_text('{\n"labels": [\n["a.png", 3]\n]\n}\n')
    saved_on_windows(tmp_path / "dataset.json")
    assert load_dataset(tmp_path).labels.tolist() == [3]


def test_results_of_benchmarks(tmp_path):
    path = tmp_path / "results.csv"
    results.append(path, [])
    saved_on_windows(path)
    assert results.read(path) == []


def test_text_of_another_encoding_is_named(fastgan, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("steps = 2\n", encoding="utf-16")
    code, _, err = fastgan("train", "--config", path)
    assert (code, err) == (2, f"fastgan: settings file {str(path)!r} is not UTF-8 text; expected TOML, which is\n")
