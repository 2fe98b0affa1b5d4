"""Stage pack: decode and resize every image once into uint8 arrays.

Reads   params.yaml; data/<name>/archive, source.json and manifest.csv
Writes  data/<name>/pack
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
import argparse
from collections.abc import Sequence

from finegrain.config import params
from finegrain.core import file_io, paths
from finegrain.dataset import pack_writer
from finegrain.sources import archive


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    config = params.load_params()
    data = paths.Dataset(config.dataset.name)
    encoding = archive.recorded_encoding(data.download_record)
    with (
        archive.ArchiveReader(data.archive, False, encoding) as reader,  # the manifest has the classes
        file_io.replace_folder(data.pack) as folder,
    ):
        pack_writer.write_pack(reader, data.manifest, folder, config.pack)


if __name__ == "__main__":
    process.run_main(main)
