"""A git repository with invented results of runs."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from finegrain.core import file_io
from finegrain.evaluation import predictions


class History:
    """A project with its results in git, so that no stage has to run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".dvc").mkdir()
        (folder / ".dvc/config").touch()
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *author, *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout

    def dvc(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=self.folder, check=True)

    def results(
        self, runs: dict[str, str], val_top1: float = 0.5, first: int = 0, **parameters: object
    ) -> None:
        """Write the files that the pipeline would leave.

        Args:
            runs: for each run, a 1 for each correct and a 0 for each incorrect test prediction.
            first: number of the first test image.
        """
        (self.folder / "params.yaml").write_text(yaml.safe_dump({"dataset": {"name": "d"}, **parameters}))
        stages = {}
        for run, marks in runs.items():
            frame = pd.DataFrame({"path": [f"{first + i}.jpg" for i in range(len(marks))], "class": "cat"})
            frame["class_1"] = ["cat" if mark == "1" else "dog" for mark in marks]
            file = self.folder / f"data/d/predictions/{run}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(file)
            correct = self.folder / f"reports/d/correct/{run}.csv"
            file_io.write_csv(correct, predictions.CORRECT_COLUMNS, predictions.correct_rows(frame))
            file_io.write_json(
                self.folder / f"reports/d/results/{run}.json", {"val": {"top1": val_top1, "loss": 0.1}}
            )
            file_io.write_json(self.folder / f"metrics/d/{run}.json", {"val_top1": val_top1})
            inputs = {"src/train.py": "1" * 32, "data/d/manifest.csv": "2" * 32}
            deps = [{"path": path, "md5": md5} for path, md5 in inputs.items()]
            lr = {"lr": parameters.get("lr", 1e-6)}
            stages[f"train@{run}"] = {"cmd": "none", "deps": deps, "params": {"params.yaml": lr}}
        metrics = {"metrics": [f"metrics/d/{run}.json" for run in runs]}
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump(metrics))
        (self.folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))

    def commit(self, message: str) -> str:
        self.git("add", "-A", "-f")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD").strip()
