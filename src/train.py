"""Stage train: run the recipe of params.yaml for one model and seed.

Reads   params.yaml; data/<name>/pack (train and val only)
Writes  models/<name>/<run>.safetensors, .json and .cost.json, data/<name>/leave_one_out/<run>.npz,
        plots/<name>/{history,loss,lr}/<run>.csv and plots/<name>/lr_range/<run>/, <run> being <model>-<seed>
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
from collections.abc import Sequence
from typing import get_args

from finegrain.config import base, params
from finegrain.core import paths
from finegrain.runtime import devices, distributed
from finegrain.training.run import TrainingRun


def main(argv: Sequence[str] | None = None) -> None:
    args = process.run_parser(__doc__, get_args(base.ModelName)).parse_args(argv)
    config = params.load_params()
    device = devices.select_device(config.device)
    if config.devices > 1 and not distributed.is_launched():
        distributed.require_gpus(config.devices, device)
        distributed.launch(config.devices, __file__, ["--model", args.model, "--seed", str(args.seed)])
        return
    files = paths.Run(config.dataset.name, args.model, args.seed)
    code = process.hash_at_start("train")
    with distributed.join_world(device) as world, TrainingRun(config, files, world, code) as run:
        run.train()


if __name__ == "__main__":
    process.run_main(main)
