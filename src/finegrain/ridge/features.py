"""Features of a split's images: the inputs of the last linear layer of a frozen network."""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from finegrain.core import disk, log
from finegrain.loading.batches import PackedSplit
from finegrain.models import build, inference
from finegrain.ridge.feature_cache import KEY_BYTES, CachedRows, FeatureCache
from finegrain.runtime import provenance

BATCH_SIZE = inference.BATCH_SIZE
"""Images in every batch: the same bits for an image whatever it is computed together with."""


def open_cache(
    net: nn.Module, split: PackedSplit, image_size: int, flip: bool, dtype: torch.dtype, code: str
) -> FeatureCache:
    """The cache of the features of this network, body and pooling, at this image size.

    Args:
        flip: features are the mean over an image and its horizontal flip.
        dtype: what the network is autocast to; the features are float32.
        code: hash of the code.
    """
    key: dict[str, Any] = {
        "network": _hash_body(net),
        "normalization": split.normalization.flatten().tolist(),
        "image_size": [split.image_size, image_size],
        "flip": flip,
        "environment": provenance.environment(split.device, dtype),
        "code": code,
    }
    return FeatureCache(key, build.get_last_layer(net).in_features)


def _hash_body(net: nn.Module) -> str:
    """sha256 of all parameters and buffers but the last layer's."""
    last = set(build.get_last_layer(net).parameters())
    digest = hashlib.sha256()
    for name, value in net.state_dict(keep_vars=True).items():
        if value not in last:
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def compute_features(
    cache: FeatureCache | None,
    net: nn.Module,
    split: PackedSplit,
    image_size: int,
    flip: bool,
    dtype: torch.dtype,
    label: str,
) -> CachedRows | None:
    """Compute what the cache lacks; the rows of the whole split, in the split's order.

    Args:
        cache: cache of the main process; None in the others, which compute their share of the batches.
        label: text before the progress bar.

    Raises:
        UserError: the disk has too little free space, or features overflow float16.
    """
    world = split.world
    keys = image_keys(split) if cache else []
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    missing = sorted(i for key, i in first.items() if cache is None or key not in cache)
    missing = world.broadcast(missing)
    if cache:
        disk.require_free_space(cache.folder, len(missing) * (4 * cache.width + KEY_BYTES), "the features")
    net.eval()
    chunks = torch.tensor(missing, dtype=torch.int64).split(BATCH_SIZE * world.size) if missing else ()
    for chunk in log.progress_bar(chunks, total=len(chunks), label=label, unit="batch"):
        features = world.gather(_chunk_features(net, split, chunk, image_size, flip, dtype))
        if cache:
            cache.add([keys[i] for i in chunk.tolist()], features)
    return cache.rows(keys) if cache else None


def image_keys(split: PackedSplit) -> list[bytes]:
    """A hash of each image's packed pixels."""
    keys = []
    for indices in torch.arange(len(split)).split(BATCH_SIZE):
        for image in split.images(indices):
            keys.append(hashlib.blake2b(image, digest_size=KEY_BYTES).digest())
    return keys


def _chunk_features(
    net: nn.Module, split: PackedSplit, chunk: Tensor, image_size: int, flip: bool, dtype: torch.dtype
) -> list[Tensor]:
    """Features of this process's share of the images ``chunk``, in batches of one size."""
    share = chunk[split.world.shard_slice(len(chunk))]
    if not len(share):
        return []
    padded = torch.cat((share, share[-1:].expand(BATCH_SIZE - len(share))))
    images, _ = next(split.batches_of(padded, BATCH_SIZE, image_size))
    features = inference.last_layer_inputs(net, images, dtype, flip)[: len(share)].cpu()
    inference.require_no_overflow(features, dtype)
    return [features]
