#!/usr/bin/env bash
# Measure training on one GPU, within 9 minutes and without network access. Speed:
#
#     bash benchmarks/gpu.sh [OUT] [PHOTOS.zip ...]     without photos, images are generated
#     bash benchmarks/gpu.sh [OUT] --toy                on a CPU, within a minute
#
# Accuracy of the recipes, and a run that is killed and resumed (see benchmarks/gpu_study.py; repeat until complete):
#
#     bash benchmarks/gpu.sh study [OUT] [PHOTOS.zip ...]
#
# Prints the tables and writes them to OUT (./gpu-results) as they grow. python3 (or $PYTHON) needs torch, torchvision,
# numpy, pandas, pillow, imagehash, pydantic, pyyaml, tqdm, safetensors, scipy, matplotlib, pyarrow.
# WHEELS=FOLDER installs missing ones from the wheels in that folder, for this run only.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
script=gpu.py
if [ "${1:-}" = study ]; then
    script=gpu_study.py
    shift
fi
export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$PYTHONPATH:$site"
fi
timeout 535 "$python" "$here/$script" "$@"
