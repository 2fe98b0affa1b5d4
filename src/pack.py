"""Stage pack: decode and resize every image once into uint8 arrays.

Reads   params.yaml; data/<name>/archive, data/<name>/manifest.csv
Writes  data/<name>/pack
"""

from finegrain import stage  # isort: skip  (first: it ends this process with dvc)
import argparse
from collections.abc import Sequence

from finegrain import packing, params, paths, record
from finegrain.sources import archive


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    config = params.read()
    data = paths.Data(config.dataset.name)
    with archive.Reader(data.archive) as reader, record.replacing_folder(data.pack) as folder:
        packing.pack(reader, data.manifest, folder, config.pack.side_pixels)


if __name__ == "__main__":
    stage.main(main)
