import dataclasses
import errno
import json
import os

import pytest
from PIL import Image

from fastgan.collapse import remedies, trials


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Tiny networks and few samples."""
    monkeypatch.setattr(trials, "NUM_SAMPLES", 60)
    sizes = {"base_channels": 8, "batch_size": 4, "latent_dim": 2}
    for name, bench in remedies.BENCHES.items():
        monkeypatch.setitem(remedies.BENCHES, name, dataclasses.replace(bench, settings={**bench.settings, **sizes}))


@pytest.mark.parametrize(("data", "kind"), [("gaussians", "of 8 modes"), ("digits", "of 10 digits")])
def test_table_picture_and_report(fastgan, tmp_path, data, kind):
    command = ("collapse", "--data", data, "--steps", 3, "--seed", 2, "--remedy", "r1", "--out", tmp_path / "lab")
    code, out, err = fastgan(*command)
    assert (code, err) == (0, "")
    assert f"{kind}, " in out
    report = json.loads((tmp_path / "lab" / "report.json").read_text())
    outcome = report["trials"][1]["against_none"]
    for words in ("missing: looking, clustering, score", "high quality", f"; {outcome}"):
        assert words in out, words
    assert [report[key] for key in ("data", "seed")] == [data, 2]
    assert [trial["remedy"] for trial in report["trials"]] == ["none", "r1"]
    assert [moment["step"] for moment in report["trials"][1]["moments"]] == [1, 2, 3]
    assert set(report["trials"][1]["settings"]) == {"regularizer", "regularizer_weight"}
    with Image.open(tmp_path / "lab" / "collapse.png") as picture:
        assert picture.size == (218 + 2 * 160 + 408, 30 + 2 * 176)


def test_a_disk_that_fills_up_meanwhile_is_one_sentence(fastgan, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fastgan.sampling.save_png", full)
    code, _, err = fastgan("collapse", "--steps", 1, "--out", tmp_path)
    picture = tmp_path / "collapse.png"
    assert (code, err) == (2, f"fastgan: file '{picture}' cannot be written: No space left on device\n")


def test_what_was_done_remains_when_the_rest_is_cut_off(fastgan, tmp_path, monkeypatch):
    run_trial = trials.run_trial

    def interrupted(bench, remedy, *args, **options):
        if remedy == "r1":
            raise KeyboardInterrupt
        return run_trial(bench, remedy, *args, **options)

    monkeypatch.setattr(trials, "run_trial", interrupted)
    code, _, _ = fastgan("collapse", "--steps", 1, "--remedy", "r1", "--out", tmp_path)
    assert code == 130
    assert [trial["remedy"] for trial in json.loads((tmp_path / "report.json").read_text())["trials"]] == ["none"]
    assert (tmp_path / "collapse.png").is_file()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--data", "faces"], "unknown --data 'faces'; choose from gaussians, digits"),
        (["--remedy", "prayer"], "unknown remedy 'prayer'; choose from none, "),
        (["--steps", "0"], "Invalid value for '--steps'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--out", "file/lab"], "cannot be written: Not a directory"),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(fastgan, tmp_path, monkeypatch, args, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(trials, "make_reference", lambda bench: pytest.fail("work was begun"))
    code, out, err = fastgan("collapse", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert "--out" in args or [path.name for path in tmp_path.iterdir()] == ["file"]
