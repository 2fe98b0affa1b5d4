"""Which images an exported graph is checked on: those of the model's own test split, or random pixels."""

import numpy as np

from finegrain.export import check_images


def test_a_long_test_split_is_sampled_evenly(tiny_pack, monkeypatch):
    monkeypatch.setattr(check_images, "MAX_IMAGES", 5)
    found = check_images.from_test_split(tiny_pack)
    images, labels = (np.load(tiny_pack / f"test{end}.npy") for end in ("", "_labels"))
    chosen = [0, 4, 8, 13, 17]
    assert found.description == "5 of the 18 test images"
    assert np.array_equal(found.images.numpy(), images[chosen])
    assert found.labels is not None and found.labels.tolist() == labels[chosen].tolist()


def test_the_test_split_is_used_only_for_a_model_trained_on_this_pack(tiny_pack):
    metadata = {"pack_image_size": 32, "data": f"{'0' * 64}-32"}
    assert check_images.find_check_images(metadata, tiny_pack, []).description == "all 18 test images"
    others = (f"{'1' * 64}-32", f"{'0' * 64}-32-crop", None)
    for other, pack in (*(({"data": each}, tiny_pack) for each in others), ({}, None)):
        found = check_images.find_check_images(metadata | other, pack, [])
        assert found.description.startswith("64 images of random pixels") and found.labels is None
        assert found.images.shape == (64, 32, 32, 3) and found.images.float().std() > 70
