"""A stage in a tenth of a second, without torch: it writes what dvc.yaml declares.

``stub_stages.install`` copies this file over src/<stage>.py. Every output is a function of the values and the
data files that the stage declares, so that a change spreads through the pipeline as in a real run.
"""

from finegrain.core import process  # isort: skip  (ends with dvc, like the real scripts)
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from finegrain.core import paths

STAGE = Path(__file__).stem
PREPARED = Path(__file__).parent / "stub"
PARAMS: dict[str, Any] = yaml.safe_load(Path("params.yaml").read_text())
DECLARED: dict[str, Any] = yaml.safe_load(Path("dvc.yaml").read_text())["stages"][STAGE]
DATASET = PARAMS["dataset"]["name"]
RUN = "-".join(sys.argv[2::2])  # --model NAME --seed N
CODE_MARK = "stub"
"""A changed copy of this line is seen in everything that the stage writes."""


def resolve(path: str) -> Path:
    path = path.replace("${dataset.name}", DATASET).replace("${item.model}-${item.seed}", RUN)
    return Path(path.replace("${item.model}", RUN.rpartition("-")[0]))


def declared_outs() -> Iterator[Path]:
    for kind in ("outs", "metrics", "plots"):
        for entry in DECLARED.get(kind, []):
            yield resolve(entry if isinstance(entry, str) else next(iter(entry)))


def digest_inputs() -> bytes:
    """SHA-256 of the declared parameters and data files, and of the names of run and stage."""
    found = hashlib.sha256(f"{STAGE} {RUN} {CODE_MARK}".encode())
    for key in DECLARED["params"]:
        value: Any = PARAMS
        for part in key.split("."):
            value = value[part]
        found.update(json.dumps(value).encode())
    for dependency in map(resolve, DECLARED["deps"]):
        if dependency.parts[0] != "src":
            files = sorted(dependency.rglob("*")) if dependency.is_dir() else [dependency]
            for file in files:
                if file.is_file():
                    found.update(file.read_bytes())
    return found.digest()


DIGEST = digest_inputs()
METRICS = ("top1", "val_top1", "top1_ci", "top5", "class_acc", "macro_f1", "loss", "ece", "val_loss")


def share(place: int) -> float:
    """A number in 0..1 that depends on all inputs."""
    return int.from_bytes(DIGEST[4 * place : 4 * place + 4]) / 2**32


def write(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def folder_files(folder: Path) -> dict[str, str]:
    """Contents of an output that is a folder, by file name."""
    text = f"{STAGE} {DIGEST.hex()}\n"
    if folder.name == "archive":
        return {f"{DATASET}.zip": text}
    if folder.name == "pack":
        return {f"{split}.npy": f"{split} {text}" for split in ("train", "val", "test")} | {"pack.json": "{}"}
    if folder.parts[0] == "winner":
        board = json.loads(Path("reports/leaderboard.json").read_text())
        best = Path("models", DATASET, board["models"][board["winner"]]["run"])
        return {
            f"model.{suffix}": best.with_name(f"{best.name}.{suffix}").read_text()
            for suffix in ("safetensors", "json")
        }
    rows = "".join(f"{place},{10.0**place},{2 - place / 9},{2 - place / 9}\n" for place in range(-6, 1))
    return {f"{phase}.csv": "log10_lr,lr,loss,smoothed_loss\n" + rows for phase in PARAMS["phases"]}


def leaderboard() -> dict[str, Any]:
    models = {}
    for model in PARAMS["models"]:
        runs = {f"{model}-{seed}": {} for seed in PARAMS["seeds"]}
        for run in runs:
            runs[run] = json.loads(Path("reports", DATASET, "results", f"{run}.json").read_text())
        best = max(runs, key=lambda run: runs[run]["val"]["top1"])
        top1 = sum(found["test"]["top1"] for found in runs.values()) / len(runs)
        val = runs[best]["val"]
        models[model] = {"run": best, "val_top1": val["top1"], "val_loss": val["loss"], "test_top1": top1}
    return {"winner": max(models, key=lambda model: models[model]["val_top1"]), "models": models}


def content(file: Path) -> str | bytes:
    """Content of an output that is a file."""
    folder, text = file.parent.name, f"{STAGE} {DIGEST.hex()}\n"
    variant = json.loads((PREPARED / f"{DIGEST[0] % 8}.json").read_text())
    if file.suffix == ".parquet":
        return (PREPARED / f"{DIGEST[0] % 8}.parquet").read_bytes()
    if file.suffix == ".png":
        return b"\x89PNG\r\n\x1a\n" + DIGEST
    if file.name == "manifest.csv":
        return variant["manifest"] + f"# {text}"
    if folder in ("correct", "right"):
        return str(variant["correct"])
    if file.suffix == ".csv":
        columns = {
            "history": "epoch,phase,image_size,lr,train_loss,train_top1,val_loss,val_top1",
            "loss": "epoch,train_loss,val_loss",
            "lr": "epoch,lr",
            "per_class": "class,recall",
            "data": "class,split,images",
        }.get(folder, "path,reason")
        row = [str(round(share(place % 8), 6)) for place in range(columns.count(",") + 1)]
        return f"{columns}\n{','.join(row)}\n"
    if file.name == "leaderboard.json":
        return as_json(leaderboard())
    if file.name == "winner.json":
        board = leaderboard()
        best = board["models"][board["winner"]]
        metrics = {"top1": round(best["test_top1"], 4), "val_top1": round(best["val_top1"], 4)}
        return as_json({"winner": board["winner"], **metrics})
    if file.name == "split.json":
        return as_json({"images": {"train": 100, "val": 40, "test": variant["images"]}})
    if file.suffix == ".json" and STAGE == "train":
        return as_json({"model": RUN, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    if folder == "results":
        val = {"top1": round(share(1), 3), "loss": share(2)}
        return as_json({"val": val, "test": {"top1": variant["top1"], "loss": share(3)}})
    if file.parts[0] == "metrics":
        values = {name: round(share(place % 8), 4) for place, name in enumerate(METRICS)}
        return as_json(values | {"top1": round(variant["top1"], 4), "val_top1": round(share(1), 3)})
    return as_json({"stub": text}) if file.suffix == ".json" else text


def wait_while_held() -> None:
    """Wait in train while the test keeps the file .checkpoints/hold; ``held`` appears meanwhile."""
    hold = paths.checkpoints_folder() / "hold"
    if STAGE == "train" and hold.exists():
        hold.with_name("held").touch()
        for _ in range(1200):
            if not hold.exists():
                break
            time.sleep(0.05)


def main() -> None:
    print(f"stub {STAGE} {RUN} of {CODE_MARK}", flush=True)
    wait_while_held()
    for out in declared_outs():
        if out.suffix:
            write(out, content(out))
        else:
            shutil.rmtree(out, ignore_errors=True)
            for name, text in folder_files(out).items():
                write(out / name, text)


if __name__ == "__main__":
    process.run_main(main)
