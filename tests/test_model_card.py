"""The model card of models that need no trained project: a solved head, and initial weights of every kind."""

from pathlib import Path

import drawn
import pytest
from untrained import save_untrained

from finegrain import cli
from finegrain.config.training import HeadParams
from finegrain.export import model_card, model_folder
from finegrain.serving.predictor import Predictor


@pytest.mark.slow
def test_the_card_of_a_solved_head_says_what_was_fitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head = HeadParams(pool="covariance", stage=["layer1", "layer2"], channels=4)
    solved = {"solve": {"strength": 0.316, "losses": [], "learning_curve": []}}
    recipe = {"head": head.model_dump(), "weights": "mine.pth", "phases": {"solve": {"solve": "ridge"}}}
    save_untrained(
        Path("m.safetensors"), Path("m.json"), ["a", "b"], head=head, recipe=recipe, solved=solved,
        leave_one_out={"images": 1234, "top1": 0.875}, unknown_below=0.45,
    )  # fmt: skip
    Path("photo.png").write_bytes(drawn.png(5))
    words = ["export", "--model", "m.safetensors", "--check", "photo.png"]
    assert model_folder.run(cli.build_parser().parse_args(words)) == 0
    text = Path("exported/m/README.md").read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ")
    assert "resnet18 up to layer2, with covariance pooling of layer1 and layer2," in text
    assert "It keeps all layers but the last of the weights of the file mine.pth." in text
    assert (
        "strength 0.316." in text
        and "87.50 % of the 1,234 images that it was solved on are correct (leave-one-out top-1)." in text
    )
    assert "95 % have a probability of at least 45 %: below that, call a photo unknown." in text
    assert len(Predictor.from_pretrained("exported/m")("photo.png")) == 2


def test_the_card_says_that_leave_one_out_after_training_is_too_good():
    metadata = {"solved": {"s": {"strength": 1.0}}, "leave_one_out": {"images": 9, "top1": 0.5}}
    recipe = {"phases": {"tune": {"epochs": 3}, "s": {"solve": "ridge"}}}
    assert "(leave-one-out top-1), which is too high" in model_card._epoch_choice(
        metadata | {"recipe": recipe}
    )


HUB = f"a/b@{'c' * 40}"


@pytest.mark.parametrize(
    ("weights", "begun", "words"),
    [
        ("DEFAULT", {"name": "IMAGENET1K_V2", "file": "r.pth"}, "torchvision's weights IMAGENET1K\\_V2."),
        (HUB, {"name": HUB, "sha256": "0" * 64}, f"of the Hub's repository {HUB} (SHA-256 `0000"),
        ("../v1", {"name": "v1", "head": "new", "sha256": "0" * 64}, "the trained model v1 (SHA-256 `0000"),
        ("../v1", {"name": "v1", "head": "kept", "kept_classes": 1234}, "with its head for 1,234 classes"),
        ("/srv/old.pth", None, "the weights of the file"),
    ],
)  # fmt: skip
def test_the_card_says_what_the_model_began_with(weights, begun, words):
    metadata = {"recipe": {"weights": weights}} | ({"initial_weights": begun} if begun else {})
    assert words in model_card._origin(metadata)
    portable = model_folder.portable_metadata(metadata)["recipe"]["weights"]
    assert portable == (weights if "@" in weights or "/" not in weights else weights.split("/")[-1])
