#!/usr/bin/env bash
# Training speed on one GPU, within 9 minutes and without a network:
#
#     bash benchmarks/gpu.sh [OUT] [PHOTOS.zip ...]     images are drawn where no photos are given
#     bash benchmarks/gpu.sh [OUT] --toy                on a CPU, within a minute
#
# Prints the tables and writes them to OUT (./gpu-results) as they grow. Needs torch, torchvision, numpy, pandas,
# pillow, imagehash, pydantic, pyyaml, tqdm, safetensors of python3 (or $PYTHON); WHEELS=FOLDER with wheels of those that are
# missing installs them from there, for this run only.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl
    export PYTHONPATH="$PYTHONPATH:$site"
fi
timeout 535 "$python" "$here/gpu.py" "$@"
