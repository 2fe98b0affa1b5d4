"""Which combinations of channels a covariance pooling keeps."""

import narrow_resnet
import pytest
import torch
from scripted_fit import split

from finegrain.config.training import HeadParams
from finegrain.models import build, pooling
from finegrain.ridge import projection


@pytest.fixture(autouse=True)
def narrow(monkeypatch) -> None:
    narrow_resnet.use_instead_of(monkeypatch, "resnet18")


@pytest.mark.parametrize("batch", [64, 5])
def test_no_other_directions_hold_more_of_the_difference_of_the_classes(tiny_pack, monkeypatch, batch):
    monkeypatch.setattr(projection, "BATCH_SIZE", batch)
    head = HeadParams(pool="covariance", stage=["layer1", "layer2"], channels=4)
    net, train = build.build_model("resnet18", 3, "none", head, 0).eval(), split(tiny_pack, "train")
    random = [each.detach().clone() for each in net.avgpool.reduce.values()]
    projection.fit_projection(net, train, 32, dtype=torch.float32)
    images, labels = next(train.eval_batches(42, 32))
    with torch.no_grad():
        stages = net.pooled_maps(images)
    for kept, before, maps in zip(net.avgpool.reduce.values(), random, stages, strict=True):
        assert kept.requires_grad and kept.shape == before.shape
        torch.testing.assert_close(kept @ kept.T, torch.eye(4), atol=1e-5, rtol=0)
        roots = pooling.covariance_root(maps)
        roots = roots / roots.flatten(1).norm(dim=1)[:, None, None]
        means = torch.stack([roots[labels == label].mean(0) for label in range(3)])
        differences = means - means.mean(0)

        def held(rows: torch.Tensor, differences: torch.Tensor = differences) -> float:
            return (rows @ differences).square().sum().item()

        best = torch.linalg.svd(differences.transpose(0, 1).flatten(1)).S[:4].square().sum().item()
        assert held(kept) == pytest.approx(best, rel=1e-3)
        assert held(before) < best / 2


def test_nothing_changes_where_all_channels_are_kept(tiny_pack):
    for head in (HeadParams(), HeadParams(pool="covariance", stage="layer1")):
        net = build.build_model("resnet18", 3, "none", head, 0)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        projection.fit_projection(net, split(tiny_pack, "train"), 32, dtype=torch.float32)
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("classes", [2, 64, 65, 200])
def test_the_sample_holds_some_images_of_evenly_spaced_classes(classes):
    labels = torch.arange(classes).repeat(30)[torch.randperm(30 * classes)]
    labels = labels[labels != 1]  # a class without images
    indices, groups = projection.sample_images(labels)
    chosen = labels[indices].unique()
    assert len(chosen) <= projection.MAX_CLASSES and len(chosen) >= min(classes - 1, 32)
    assert (chosen.diff().max() - chosen.diff().min() <= 1) if len(chosen) > 1 else True
    assert groups.bincount().tolist() == [projection.IMAGES_A_CLASS] * len(chosen)
    assert torch.equal(chosen[groups], labels[indices])
