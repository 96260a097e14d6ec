import io
import json
import re

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastgan.training.health import Finding
from fastgan.training.logging import Reporter

LOSSES = {"discriminator_loss": 1.25, "generator_loss": 0.5}
FIGURES = LOSSES | {"d_real": 0.75, "d_fake": 0.125, "spread": 0.9375}
COLLAPSE = Finding("mode collapse", "two differ by 4.0%", "regularizer [r1]")
SWING = Finding("oscillation", "it swings", "less")


def steps_logged(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_pipe_gets_a_line_a_report_with_losses_speed_and_time_left(tmp_path, tiny, console):
    with Reporter(tmp_path, tiny(steps=100), step=0, num_images=0, console=console) as reporter:
        reporter.advance(5)
        reporter.report(5, LOSSES, num_images=30)
    line = console.file.getvalue().strip()
    assert line.startswith("step 5/100  D 1.250  G 0.500  ")
    assert "img/s" in line
    assert line.endswith("left")


def test_a_terminal_of_80_columns_gets_the_lines_and_a_progress_bar_whole(tmp_path, tiny):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Reporter(tmp_path, tiny(steps=2000), step=0, num_images=0, console=console) as reporter:
        reporter.report(1050, FIGURES, num_images=67200)
    shown = console.file.getvalue()
    assert "step 1050/2000  D 1.250  G 0.500" in shown
    assert re.search(r"training .*1050/2000", shown)
    assert "…" not in shown


def test_a_line_comes_within_ten_seconds_of_the_first_step(tmp_path, tiny, console, monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    with Reporter(tmp_path, tiny(steps=100, log_every=50), step=20, num_images=0, console=console) as reporter:
        for step in range(21, 26):
            now += 3
            reporter.advance(step)
            assert bool(console.file.getvalue()) == (step >= 23)
    line = "step 23/100  3.0 seconds per step; losses come at step 50"
    assert console.file.getvalue().splitlines() == [line]
    assert not (tmp_path / "metrics.jsonl").read_text()


def test_throughput_counts_images_over_time(tmp_path, tiny, console, monkeypatch):
    clock = iter([100.0, 102.0, 106.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with Reporter(tmp_path, tiny(steps=20), step=10, num_images=60, console=console) as reporter:
        reporter.report(14, LOSSES, num_images=84)
        reporter.report(16, LOSSES, num_images=92)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["images_per_second"] for row in rows] == [24 / 2, 8 / 4]  # the batch shrank
    lines = console.file.getvalue().splitlines()
    assert lines[0].endswith("0:03 left")  # 6 steps at half a second
    assert lines[1].endswith("0:08 left")  # 4 steps at two seconds


def test_tensorboard_gets_scalars_and_grids(tmp_path, tiny, console):
    with Reporter(tmp_path, tiny(), step=0, num_images=0, console=console) as reporter:
        reporter.report(5, FIGURES, num_images=30, findings=[COLLAPSE])
        path = reporter.samples(8, torch.zeros(4, 1, 16, 16))
    assert path == tmp_path / "samples" / "8.png"
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == [
        "discriminator/loss",
        "generator/loss",
        "health/d_fake",
        "health/d_real",
        "health/spread",
        "images_per_second",
        "peak_memory_mib",
    ]
    assert [scalar.value for scalar in events.Scalars("health/spread")] == [0.9375]
    assert "two differ by 4.0%" in str(events.Tensors("health/text_summary")[0])
    (scalar,) = events.Scalars("discriminator/loss")
    assert (scalar.step, scalar.value) == (5, 1.25)
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (8, 2 * 34 + 2, 2 * 34 + 2)


@pytest.mark.parametrize(
    ("resumed_at", "kept"),
    [(0, []), (4, []), (5, [5]), (9, [5]), (10, [5, 10]), (12, [5, 10, 12]), (99, [5, 10, 12])],  # 12 is the last
)
def test_rows_past_the_checkpoint_and_of_cut_intervals_go(tmp_path, tiny, console, resumed_at, kept):
    text = "".join(json.dumps({"step": step}) + "\n" for step in (5, 10, 12)) + '{"step": 1'
    (tmp_path / "metrics.jsonl").write_text(text)
    with Reporter(tmp_path, tiny(log_every=5), step=resumed_at, num_images=0, console=console):
        assert steps_logged(tmp_path) == kept


def test_a_row_is_on_disk_once_reported(tmp_path, tiny, console):
    with Reporter(tmp_path, tiny(), step=0, num_images=0, console=console) as reporter:
        reporter.report(5, LOSSES, num_images=30)
        assert steps_logged(tmp_path) == [5]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_finding_is_told_when_it_comes_and_when_it_goes(tmp_path, tiny, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    reports = [[], [COLLAPSE], [COLLAPSE, SWING], [SWING], [], [COLLAPSE]]
    with Reporter(tmp_path, tiny(steps=100), step=0, num_images=0, console=console) as reporter:
        for i, findings in enumerate(reports):
            before = [finding.name for finding in reports[i - 1]] if i else []
            reporter.report(5 + 5 * i, FIGURES, num_images=30 * (i + 1), findings=findings, ongoing=before)
    shown = console.file.getvalue()
    told = re.findall(r"health at step \d+: [^.]*[.] ?[^.\n]*", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown))
    assert [line.strip() for line in told] == [
        "health at step 10: mode collapse: two differ by 4.0%",
        "health at step 15: oscillation: it swings. Try less",
        "health at step 20: mode collapse is over.",
        "health at step 25: oscillation is over.",
        "health at step 30: mode collapse: two differ by 4.0%",
    ]
    assert shown.count("0%. Try regularizer [r1].") == 2
    assert shown.count("D(x) 0.75  D(G(z)) 0.12") >= len(reports) - 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("findings", []) for row in rows] == [[f.name for f in findings] for findings in reports]
    assert "findings" not in rows[0]


def test_what_has_been_told_before_a_run_was_resumed_is_not_told_again(tmp_path, tiny, console):
    with Reporter(tmp_path, tiny(), step=5, num_images=30, console=console) as reporter:
        reporter.report(10, LOSSES, num_images=60, findings=[COLLAPSE], ongoing=["mode collapse"])
        assert "health" not in console.file.getvalue()
        reporter.report(15, LOSSES, num_images=90, ongoing=["mode collapse"])
    assert "health at step 15: mode collapse is over." in console.file.getvalue()
