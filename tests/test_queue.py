"""Two workers of DVC's queue train at the same time what each trains alone, to the bit."""

import time

import pytest
import yaml
from clone import Clone
from kills import processes, stage_of

pytestmark = pytest.mark.long

MODEL = "models/sample/resnet18-0.safetensors"


def test_two_queue_workers_side_by_side_do_not_harm_each_other(tmp_path):
    clone = Clone.tiny(tmp_path / "clone")
    clone("dvc repro pack")
    clone.commit("data")
    clone("dvc exp run --queue -S 'lr=0.002,0.004' -S phases.all.epochs=3")
    clone("dvc queue start -j 2 > ../queue.log 2>&1")  # a worker would keep our pipe open to its end
    most = 0
    for attempt in range(1200):  # `dvc queue status` takes a second of a core
        trainings = [process for process in processes(clone.folder) if stage_of(process) == "train"]
        most = max(most, len({process.cwd() for process in trainings}))
        if not trainings and attempt % 60 == 0 and clone("dvc queue status").count("Success") == 2:
            break
        time.sleep(0.1)
    assert most == 2 and "Failed" not in clone("dvc queue status")
    weights = {}
    for name in clone("dvc exp list --name-only").split():
        clone(f"dvc get -q . {MODEL} --rev {name} -o {tmp_path / name}")
        clone(f"dvc get -q . params.yaml --rev {name} -o {tmp_path / name}.yaml")
        lr = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())["lr"]
        weights[lr] = (tmp_path / name).read_bytes()
    alone = "dvc exp run --temp --force --single-item -n alone -S phases.all.epochs=3 -S"
    clone(f"{alone} lr=0.004 train@resnet18-0")
    clone(f"dvc get -q . {MODEL} --rev alone -o {tmp_path / 'alone'}")
    assert weights[0.004] == (tmp_path / "alone").read_bytes() != weights[0.002]
