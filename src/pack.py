"""Stage pack: decode and resize every image once into uint8 arrays.

Reads   params.yaml; data/<name>/archive, source.json and manifest.csv; the last pack in DVC's cache, as DVC
        has removed data/<name>/pack
Writes  data/<name>/pack; for its next run .checkpoints/packs
"""

from finegrain.core import process  # isort: skip  (first: it ends this process with dvc)
from collections.abc import Sequence

from finegrain.config import params
from finegrain.core import dvc_cache, file_io, paths
from finegrain.dataset import pack_writer
from finegrain.sources import archive


def main(argv: Sequence[str] | None = None) -> None:
    process.parser(__doc__).parse_args(argv)
    config = params.load_params()
    data = paths.Dataset(config.dataset.name)
    earlier = pack_writer.EarlierPack(dvc_cache.cached_members(data.pack), config.pack)
    encoding = archive.recorded_encoding(data.download_record)
    with (
        archive.ArchiveReader(data.archive, False, encoding) as reader,  # the manifest has the classes
        file_io.replace_folder(data.pack) as folder,
    ):
        pack_writer.write_pack(reader, data.manifest, folder, config.pack, earlier)


if __name__ == "__main__":
    process.run_main(main)
