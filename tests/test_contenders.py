"""time_to_accuracy.py: its recorded runs, and the clock and the number of epochs of its contenders."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import contenders
import drawn
import pytest
import safetensors.torch
import torch
import torchvision
from narrow_resnet import NarrowResNet
from pipeline import ROOT


def test_recorded_runs_are_shown_in_results_and_not_run_again(tmp_path):
    """Archive and weights do not exist, so a run would fail."""
    recorded = json.loads((ROOT / "docs" / "time_to_accuracy.json").read_text())
    (tmp_path / "runs.json").write_text(json.dumps(recorded))
    command = [sys.executable, str(ROOT / "benchmarks" / "time_to_accuracy.py"), "--out", str(tmp_path)]
    command += ["--archive", "none.zip", "--weights", "none", "--budgets", "1200", "--contenders", "fastai"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| \d", line)]
    results = (ROOT / "docs" / "RESULTS.md").read_text().splitlines()
    assert len(rows) == len(recorded) and not set(rows) - set(results)
    assert (tmp_path / "time_to_accuracy.png").stat().st_size > 10_000


def test_runs_need_photos_and_weights(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "time_to_accuracy.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--archive and --weights are needed" in done.stderr


def test_neither_timm_nor_fastai_is_needed_to_start_and_the_clock_runs_before_torch_is_imported():
    absent = "import sys; sys.modules.update(timm=None, fastai=None)"
    command = [sys.executable, "-c", f"{absent}; import contenders; print('torch' in sys.modules)"]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [(["keras"], "'keras'"), (["tutorial"], "--photos, --weights, --image-size, --budget, --out")],
)
def test_an_unknown_contender_and_missing_options_are_named(words, named, capsys):
    with pytest.raises(SystemExit) as ended:
        contenders.main(words)
    assert ended.value.code == 2 and named in capsys.readouterr().err


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in seconds since the start of the process, as its one element."""
    now = [0.0]
    monkeypatch.setattr(contenders, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(contenders, "STARTED", 0.0)
    return now


def test_epochs_fill_what_is_left_of_the_budget(clock, monkeypatch):
    """2 s for each of 10 train batches and half a second for each of 4 validation batches: 22 s an epoch."""

    def seconds_per_batch(net: object, loader: object, criterion: object) -> float:
        clock[0] += 60  # the timing itself does not count
        return 2.0 if criterion else 0.5

    monkeypatch.setattr(contenders, "seconds_per_batch", seconds_per_batch)
    clock[0] = 11.0
    assert contenders.Score(100.0).epochs_that_fit(None, range(10), range(4), "loss") == 4
    clock[0] = 98.0
    assert contenders.Score(100.0).epochs_that_fit(None, range(10), range(4), "loss") == 1


def test_test_images_are_predicted_at_the_best_epoch_alone_and_off_the_clock(clock, monkeypatch):
    counts = iter([(3, 10), (8, 10)])

    def count_correct(net: object, test: object) -> tuple[int, int]:
        clock[0] += 60
        return next(counts)

    monkeypatch.setattr(contenders, "count_correct", count_correct)
    score = contenders.Score(100.0)
    for val_top1 in (0.5, 0.4, 0.6):
        clock[0] += 5
        score.epoch_ended(val_top1, None, [])
    assert [(row["seconds"], row["test_correct"]) for row in score.epochs] == [(5, 3), (10, 3), (15, 8)]


def test_the_tutorial_trains_at_least_one_epoch_and_writes_its_result(tmp_path, monkeypatch):
    counts = {"train": 6, "val": 2, "test": 3}
    photos: Path = drawn.tree(
        tmp_path / "photos",
        {
            f"{split}/{name}/{number}.png": drawn.png(seed)
            for seed, (split, name, number) in enumerate(
                (split, name, number) for split in counts for name in "ab" for number in range(counts[split])
            )
        },
    )
    weights = {key: value for key, value in NarrowResNet().state_dict().items() if not key.startswith("fc.")}
    safetensors.torch.save_file(weights, tmp_path / "w.safetensors")
    monkeypatch.setattr(torchvision.models, "resnet18", NarrowResNet)
    loader = torch.utils.data.DataLoader
    in_this_process = {"num_workers": 0}  # starting 20 workers takes most of the time
    monkeypatch.setattr(
        torch.utils.data, "DataLoader", lambda *args, **options: loader(*args, **options | in_this_process)
    )
    words = ["--photos", str(photos), "--weights", str(tmp_path / "w.safetensors"), "--image-size", "32"]
    contenders.main(["tutorial", *words, "--budget", "0", "--out", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["threads"] == torch.get_num_threads()
    (epoch,) = found["epochs"]
    assert epoch["test_images"] == 6 and 0 <= epoch["test_correct"] <= 6
    assert epoch["val_top1"] in (0.0, 0.25, 0.5, 0.75, 1.0) and epoch["seconds"] > 0
