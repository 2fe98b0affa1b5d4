"""The benchmarks for a GPU, at toy size on a CPU: what they measure, and their tables."""

import json
import os
import runpy
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import augmentation_bytes
import gpu_bound
import gpu_run
import gpu_study
import gpu_study_table
import gpu_table
import numpy as np
import pytest
import torch
from run_benchmark import BENCHMARKS, run_benchmark

from finegrain.comparison import significance
from finegrain.core import file_io
from finegrain.core.errors import UserError


def ceiling_of(found: dict[str, Any]) -> float:
    return next(cell["images_per_second"] for cell in found["cells"] if cell["way"] == "ceiling")


def test_the_bytes_of_operators_are_their_inputs_and_outputs():
    x, y = torch.ones(10, 10), torch.ones(10, 10)
    for work, expected in [
        (lambda: x + y, 3 * 400),
        (lambda: x.view(100).t(), 0),
        (lambda: x.add_(y), 3 * 400),
        (lambda: torch._foreach_add_([x, y], 1.0), 4 * 400),
        (lambda: x.to(torch.bfloat16), 400 + 200),
        (lambda: torch.lerp(x, y, 0.3, out=x), 3 * 400),
        (lambda: torch.ones(10, 10, device="meta") + 1, 400 + 2 * 400),
    ]:
        with gpu_bound.Bytes() as moved:
            work()
        assert moved.total == expected


def test_the_kernels_move_a_fraction_of_what_operators_move(tmp_path, capsys):
    options = ["--image-size", "64", "--batch-size", "8", "--models", "resnet18"]
    augmentation_bytes.main([*options, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed.strip() == (tmp_path / "out" / "augmentation_bytes.md").read_text().strip()
    rows = [line.strip("| ").split(" | ") for line in printed.splitlines()[2:] if line]
    assert [row[0] for row in rows[2:]] == ["the step itself", *[
        f"{name}, {way}" for name in ("crop and flip", "all augmentation") for way in ("operators", "kernels")
    ], "MixUp"]  # fmt: skip
    moved = {row[0]: float(row[1]) for row in rows[3:]}
    assert moved["crop and flip, kernels"] < moved["crop and flip, operators"] / 4
    assert moved["all augmentation, kernels"] < moved["all augmentation, operators"] / 15


@pytest.mark.long
def test_gpu_runs_on_a_cpu_too(tmp_path):
    printed = run_benchmark(tmp_path, "bash", str(BENCHMARKS / "gpu.sh"), "out", "--toy", "--minutes", "5")
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert printed.strip() == (tmp_path / "out" / "gpu.md").read_text().strip()
    assert not found["failed"] and not found["left_out"]
    assert [cell["batch_size"] for cell in found["cells"]] == [8] * 6 + [4] * 3
    assert len({cell["way"] for cell in found["cells"]}) == 6
    assert [row["image_size"] for row in found["growing"]] == [32, 32, 32, 64, 64, 64]
    assert len({row["augmentation"] for row in found["batches_alone"]}) == 4
    assert found["agreement"] == {}  # a CPU has one way
    (bound,) = found["bounds"]
    assert bound["flop"] == pytest.approx(3 * 2 * 1.82e9 * (64 / 224) ** 2, rel=0.05)  # of ResNet-18's paper
    short = [c["way"] for c in found["cells"][:2] if c["images_per_second"] < 0.95 * ceiling_of(found)]
    assert [row["way"] for row in found["profiles"]] == short
    rows = found["cells"] + found["growing"] + found["batches_alone"]
    assert all(0.1 < row["images_per_second"] < 1e6 for row in rows)


def test_the_gpu_table_says_after_how_many_images_compiling_pays():
    rows = [
        {"model": model, "batch_size": 8, "way": way, "images_per_second": speed, "start_seconds": start}
        for model, way, speed, start in [
            ("fast", "ceiling", 100.0, 1.0), ("fast", "ceiling, compiled", 200.0, 31.0),
            ("slow", "ceiling", 100.0, 1.0), ("slow", "ceiling, compiled", 90.0, 31.0),
        ]
    ]  # fmt: skip
    lines = list(gpu_table._compiled(rows))
    assert lines[2:] == [
        "| fast | 8 | 200 | 2.00x | 31 | 6,000 |",  # 5 ms an image saved, 30 s more to start
        "| slow | 8 | 90 | 0.90x | 31 | never |",
    ]
    assert len(list(gpu_table._compiled(rows[1:2]))) == 2  # what it would be set against has failed


class Forked:
    """Stands in for ``subprocess.Popen`` of a stage: a fork of this process, which has imported torch."""

    commands: list[list[str]] = []

    def __init__(self, command: list[str], cwd: Path, stdout: Any, stderr: Any) -> None:
        self.commands.append([Path(command[1]).stem, *command[2:]])
        self._code: int | None = None
        self._pid = os.fork()
        if not self._pid:
            code = 1
            try:
                os.chdir(cwd)
                os.dup2(stdout.fileno(), 1)
                os.dup2(stderr.fileno(), 2)
                sys.stdout, sys.stderr = (open(i, "w", buffering=1, closefd=False) for i in (1, 2))
                torch.set_num_threads(1)
                sys.argv = command[1:]
                runpy.run_path(command[1], run_name="__main__")
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(0)
        assert code is not None
        return code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self._pid, signal.SIGKILL)

    def _ended(self, how: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self._pid, how)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


@pytest.mark.long
def test_the_gpu_study_goes_on_where_it_ended_and_repeats_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_run, "_popen", Forked)
    monkeypatch.setattr(Forked, "commands", [])
    common = ["--toy", "--work", str(tmp_path / "work"), "--minutes", "5"]
    common += ["--kinds", "reference", "equal-epochs", "resume", "--resume-kinds", "equal-epochs"]

    def call(number: int, *more: str) -> dict[str, Any]:
        out = tmp_path / f"out-{number}"
        gpu_study.main([str(out), *common, *more])
        found = json.loads((out / "gpu_study.json").read_text())
        assert found == json.loads((tmp_path / "work" / "gpu_study.json").read_text())
        return found

    found = call(1, "--reserve-seconds", "1000")
    assert not Forked.commands and not found["runs"]
    assert found["left_out"][0] == "reference, resnet18, seed 0" and len(found["left_out"]) == 3

    found = call(2)
    assert not found["failed"] and not found["left_out"]
    assert [run["kind"] for run in found["runs"]] == ["reference", "equal-epochs"]
    begun = Counter(command[0] for command in Forked.commands)
    assert begun == {"train": 2 + 1 + 2, "evaluate": 2}  # one of them whole, the other in two pieces
    for run in found["runs"]:
        assert len(run["val_top1"]) == 2 and run["pieces"] == 1
        assert 0 < run["reached_seconds"][0] < run["reached_seconds"][1] < run["wall_seconds"]
    (resumed,) = found["resumes"]
    assert resumed["resumed"] == ["resumed after epoch 1"]
    assert resumed["differ"] == [] and set(resumed["files"]) == {"weights", "sidecar", "history"}

    again = call(3)
    assert again == found and sum(begun.values()) == len(Forked.commands)
    assert (tmp_path / "out-3" / "gpu_study.png").read_bytes()[:4] == b"\x89PNG"


def a_run(kind: str, model: str, right: str, seconds: float, **changes: Any) -> dict[str, Any]:
    """A run of two epochs as the study records it; ``right`` has a 1 for each correct test image."""
    share = right.count("1") / len(right)
    return {
        "kind": kind,
        "model": model,
        "seed": 0,
        "wall_seconds": seconds,
        "pieces": 1,
        "reached_seconds": [0.4 * seconds, 0.8 * seconds],
        "image_size": [224, 224],
        "val_top1": [0.25, 0.5],
        "cost": {"seconds": 0.6 * seconds, "images_per_second": 100.0},
        "test": {"top1": share, "top1_low": share / 2, "top1_high": (1 + share) / 2, "top5": 1.0},
        "right": f"class,images,correct\ncar,{'0' * 16},{right}\n",
        **changes,
    }


def results(runs: list[dict[str, Any]]) -> dict[str, Any]:
    there = {"device_name": "a GPU", "torch": "2", "precision": "bf16"}
    settings = {"cores": 16, "revision": None, "environment": there, "images": {"train": 4072, "test": 40}}
    lists = {"runs": runs, "resumes": [], "left_out": [], "failed": []}
    return settings | {"prepare_seconds": {"pack": 2.0}} | lists


def test_the_reference_table_s_time_is_the_sum_of_its_runs():
    runs = [
        a_run("reference", "resnet18", "1" * 40, 60.0),
        a_run("equal-time", "resnet18", "1" * 40, 55.0),
        a_run("reference", "resnet50", "1" * 40, 100.0, pieces=2),
        a_run("reference", "resnet18", "1" * 40, 61.0, seed=1),
    ]
    assert gpu_study_table.table_seconds(runs) == 160.0
    # twice the photos: the epochs' 36 and 60 seconds twice
    assert gpu_study_table.scaled_seconds(runs, 8144, 4072) == pytest.approx(160 + 96)
    text = gpu_study_table.markdown(results(runs))
    assert "| 2 models | | 160.0 | | | | 71 |" in text
    assert "In proportion to 8,144 photos instead of 4,072, computed: 4.3 minutes." in text
    assert "| resnet18 | reference |  | 25.0% |  |  |  |  | 50.0% (48 s) |" in text


def test_ours_is_compared_with_the_reference_on_the_same_images(tmp_path):
    few, many = "1" * 10 + "0" * 30, "0" * 5 + "1" * 30 + "0" * 5
    runs = [a_run("equal-time", "resnet18", many, 55.0), a_run("reference", "resnet18", few, 60.0)]
    runs += [a_run("equal-epochs", "resnet18", few, 20.0), a_run("best", "resnet50", many, 480.0)]
    ours, theirs = (np.array([[mark == "1" for mark in marks]]) for marks in (many, few))
    pairs = gpu_study_table.comparisons(runs)
    assert [(pair["kind"], pair["model"]) for pair in pairs] == [
        ("equal-epochs", "resnet18"),
        ("equal-time", "resnet18"),
    ]
    plain = [significance.compare(theirs, theirs), significance.compare(ours, theirs)]
    assert [pair["comparison"] for pair in pairs] == significance.holm_corrected(plain)
    assert pairs[1]["comparison"].difference == pytest.approx(0.5)
    assert (pairs[1]["seconds"], pairs[1]["reference_seconds"]) == (55.0, 60.0)
    text = gpu_study_table.markdown(results(runs))
    assert "| equal time | resnet18 | 55 | 60 | 1 | +50.0 [" in text and "| significantly better |" in text
    runs[0]["right"] = runs[0]["right"].replace("0" * 16, "1" * 16)  # other images of that class
    with pytest.raises(UserError, match="scored on other test images"):
        gpu_study_table.comparisons(runs)


def test_a_run_is_planned_to_take_no_longer_than_its_time():
    known = {"wall_seconds": 30.0, "reached_seconds": [10.0, 12.0, 14.0, 16.0], "image_size": [224] * 4}
    assert gpu_study.epoch_seconds(known) == 2.0  # so 22 of the 30 are for start and end
    epochs = gpu_study.epochs_within(100.0, known, [224])
    assert 22 + 2 * epochs <= 0.93 * 100 < 22 + 2 * (epochs + 1)
    doubled = gpu_study.epochs_within(100.0, known, [448, 448])
    assert doubled == epochs // 4
    assert gpu_study.epochs_within(1.0, known, [224]) == 1


def test_a_table_of_nothing_yet_can_be_written(tmp_path):
    nothing = results([])
    del nothing["environment"], nothing["images"], nothing["prepare_seconds"]
    assert "no run yet" in gpu_study_table.markdown(nothing)
    file_io.write_json(tmp_path / "gpu_study.json", results([a_run("best", "resnet18", "10", 8.0)]))
    gpu_study_table.draw(file_io.read_json(tmp_path / "gpu_study.json"), tmp_path / "gpu_study.png")
    assert (tmp_path / "gpu_study.png").read_bytes()[:4] == b"\x89PNG"
