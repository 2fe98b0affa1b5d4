"""The families of networks and the kinds of heads that the tests build."""

from finegrain.config.training import HeadParams

FAMILIES = ["resnet18", "resnet50", "wide_resnet50_2", "resnext50_32x4d", "efficientnet_b0"]
LINEAR = HeadParams()
COVARIANCE = HeadParams(pool="covariance", stage=["layer2", "layer3"], channels=16)
HEADS = [
    LINEAR,
    HeadParams(widths=[1024, 512, 256, 128], dropouts=[0.5, 0.2, 0.2, 0.2, 0.2], activation="none"),
    HeadParams(widths=[512], dropouts=[0.25, 0.5], batch_norm=True, pool="avg+max"),
    COVARIANCE,
]
