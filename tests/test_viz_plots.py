"""Pictures of weights, answers and trainings: what is in the right places, and all of it seen."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import nnx
from nnx import nn, viz
from nnx.callbacks import History
from nnx.cli.pictures import PICTURES
from nnx.viz.counts import probabilities
from nnx.viz.picture import colours, rgb
from nnx.viz.plots import _curve
from tests.pictures import SVG, Image, decoded, model_of, trained

# Weights


def weight_place(picture, neuron, i, j, size):
    """Return the colour of pixel (i, j) of a neuron, from the picture's file."""
    pixels = decoded(picture)
    axes = next(a for a in picture.figure.axes if a.get_label() == f"neuron {neuron}")
    x0, y0, x1, y1 = axes.get_position().extents
    height, width, _ = pixels.shape
    column = (x0 + (j + 0.5) / size * (x1 - x0)) * width
    row = (1 - y1 + (i + 0.5) / size * (y1 - y0)) * height
    return pixels[int(row), int(column)].astype(int)


@pytest.mark.parametrize("dark", [False, True])
def test_weights_are_green_red_and_neutral_in_their_places(dark):
    columns = np.zeros((784, 5), "f")
    columns[3 * 28 + 20, 1] = 1.0
    columns[25 * 28 + 4, 1] = -1.0
    columns[3 * 28 + 20, 4] = 0.25
    picture = viz.weights(model_of(columns), dark=dark)
    red, green, blue = weight_place(picture, 1, 3, 20, 28)
    assert green > red + 60 and green > blue
    red, green, blue = weight_place(picture, 1, 25, 4, 28)
    assert red > green + 60 and red > blue
    neutral = 0 if dark else 255
    assert (weight_place(picture, 1, 20, 3, 28) == neutral).all()  # not transposed
    assert (weight_place(picture, 0, 3, 20, 28) == neutral).all()
    faint, full = weight_place(picture, 4, 3, 20, 28), weight_place(picture, 1, 3, 20, 28)
    assert abs(faint - neutral).sum() < abs(full - neutral).sum() / 2  # one scale for all


def test_weights_of_no_image_stand_in_the_nearest_grid_and_it_is_said():
    picture = viz.weights(model_of(np.eye(13, 3, dtype="f")))
    texts = " ".join(text.get_text() for text in picture.figure.texts)
    assert "13 inputs are no image" in texts and "4 rows of 4" in texts and "3 places" in texts
    red, green, _ = weight_place(picture, 2, 0, 2, 4)
    assert green > red + 60
    assert "no image" not in str(viz.weights(model_of(np.ones((6, 1), "f")), shape=(2, 3)))


def title_of(picture):
    return " ".join(text.get_text() for text in picture.figure.texts)


def test_weights_of_channels_are_shown_as_their_mean_and_it_is_said():
    columns = np.zeros((8, 8, 3, 2), "f")
    columns[2, 5, :, 1] = [3.0, 1.0, 2.0]
    for given, shape in ((columns, (8, 8, 3)), (np.moveaxis(columns, 2, 0), (3, 8, 8))):
        picture = viz.weights(model_of(given.reshape(-1, 2)), shape=shape)
        red, green, _ = weight_place(picture, 1, 2, 5, 8)
        assert green > red + 60 and "the mean of 3 channels" in title_of(picture)
        assert (weight_place(picture, 1, 5, 2, 8) == 255).all()


def test_weights_that_are_not_finite_or_all_zero_are_told():
    columns = np.ones((64, 4), "f")
    columns[9, 1], columns[10, 1], columns[11, 1] = np.nan, np.inf, -np.inf
    picture = viz.weights(model_of(columns))
    assert "3 of 256 weights are NaN (dark) or infinite (full)" in title_of(picture)
    near = [weight_place(picture, 1, 1, j, 8) for j in (1, 2, 3)]
    for pixel, name in zip(near, ("muted", "positive", "negative"), strict=True):
        np.testing.assert_allclose(pixel, rgb(colours(False)[name]), atol=2)
    for value in (np.inf, -np.inf, np.nan):
        viz.weights(model_of(np.full((64, 2), value, "f")))._repr_png_()
    assert "all weights are 0" in title_of(viz.weights(model_of(np.zeros((64, 2), "f"))))


def test_weights_of_a_thin_image_can_be_seen():
    picture = viz.weights(model_of(np.ones((400, 2), "f")), shape=(2, 200))
    axes = next(a for a in picture.figure.axes if a.get_label() == "neuron 0")
    assert axes.get_position().height * picture.figure.get_figheight() > 0.1
    pixels = decoded(picture)
    x0, y0, x1, y1 = axes.get_position().extents
    height, width, _ = pixels.shape
    middle = pixels[int((1 - (y0 + y1) / 2) * height), int((x0 + x1) / 2 * width)]
    np.testing.assert_allclose(middle, rgb(colours(False)["positive"]), atol=2)


def test_weights_of_many_neurons_are_cut_and_it_is_said():
    picture = viz.weights(model_of(np.ones((4, 130), "f")))
    assert "the first 100 of 130" in " ".join(t.get_text() for t in picture.figure.texts)


def test_signs_differ_for_the_colour_blind():
    """The ends of the scale stay apart for deuteranopes. Source: Machado et al. 2009, table 1."""
    from nnx.viz.picture import DARK, LIGHT, rgb

    seen = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]])  # fmt: skip
    for use in (LIGHT, DARK):
        plus, minus = ((rgb(use[k]) / 255) ** 2.2 for k in ("positive", "negative"))
        assert np.abs(seen @ plus - seen @ minus).max() > 0.08


# The other pictures


def every_picture():
    model, x, y = trained()
    scores = model.predict(x)
    shown = History()
    for epoch in range(3):
        shown.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1), "val_loss": 1.1})
    return {
        "weights": lambda dark: viz.weights(model, shape=(4, 4), dark=dark),
        "activations": lambda dark: viz.activations(
            model, x[0], label="b", classes="abc", shape=(4, 4), dark=dark
        ),
        "history": lambda dark: viz.history(shown, dark=dark),
        "confusion": lambda dark: viz.confusion(scores, y, classes="abc", dark=dark),
        "roc": lambda dark: viz.roc(scores, y, classes="abc", dark=dark),
        "mistakes": lambda dark: viz.mistakes(scores, y, x, shape=(4, 4), dark=dark),
    }


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", PICTURES)
def test_picture_is_decoded_has_its_size_and_is_not_blank(name, dark, tmp_path):
    picture = every_picture()[name](dark)
    path = picture.save(tmp_path / f"{name}.png")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    width, height = picture.figure.get_size_inches() * picture.figure.dpi
    assert abs(pixels.shape[0] - height) <= 1 and abs(pixels.shape[1] - width) <= 1
    assert (pixels[1, 1].mean() < 60) == dark
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    text = picture.save(tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == f"{SVG}svg" and "<text" in text
    assert picture._repr_html_().startswith("<img alt=") and picture._repr_png_()[1:4] == b"PNG"
    assert picture.text


def texts_of(figure):
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def test_confusion_counts_rows_of_truth_and_columns_of_predictions():
    predicted, true = np.array([0, 1, 1, 1, 2]), np.array([0, 0, 0, 1, 2])
    axes = viz.confusion(predicted, true, classes=["cat", "<dog>", "$x$"]).figure.axes[0]
    cells = {(*map(int, t.get_position()[::-1]),): t.get_text() for t in axes.texts}
    assert cells == {(0, 0): "1", (0, 1): "2", (1, 1): "1", (2, 2): "1"}
    assert "60.00% of 5 right" in texts_of(axes.figure)


def test_names_of_classes_are_no_mathematics():
    picture = viz.confusion([0, 1], [0, 1], classes=["<dog>", "$x_1$"])
    svg = picture.render("svg").decode()
    assert svg.count("&lt;dog&gt;") == 2 and svg.count("$x_1$</text>") == 2


LONG = [f"a very long name of a class that goes on and on, number {i}" for i in range(3)]


def clipped(picture):
    """Return the texts that stand outside of a picture, or over each other in their axes."""
    figure = picture.figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    shown = {}
    draw = Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text():
            shown[id(text)] = text
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.draw(renderer)
    whole = figure.bbox.padded(1.0)
    boxes = [(text, text.get_window_extent(renderer)) for text in shown.values()]
    out = [
        t.get_text()
        for t, box in boxes
        if not (
            whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        )
    ]
    level = [(t, box) for t, box in boxes if not t.get_rotation() and box.width]
    pairs = itertools.combinations(level, 2)
    return out + [
        a.get_text()
        for (a, one), (b, two) in pairs
        if a.get_text() != b.get_text() and one.padded(-2).overlaps(two.padded(-2))
    ]


AWKWARD = {
    "confusion of long names": lambda: viz.confusion(np.eye(3), [0, 1, 2], classes=LONG),
    "confusion of 100 classes": lambda: viz.confusion(np.arange(100), np.arange(100)),
    "confusion of one class": lambda: viz.confusion([0, 0], [0, 0]),
    "roc of long names": lambda: viz.roc(np.eye(3), [0, 1, 2], classes=LONG),
    "roc of 30 classes": lambda: viz.roc(np.eye(30), np.arange(30)),
    "mistakes of long names": lambda: viz.mistakes(np.eye(3), [1, 2, 0], np.eye(3), classes=LONG),
    "mistakes of no image": lambda: viz.mistakes(np.eye(3), [1, 2, 0], np.ones((3, 17))),
    "activations of long names": lambda: viz.activations(
        model_of(np.eye(3, dtype="f")), np.ones(3, "f"), classes=LONG, label=LONG[1]
    ),
    "activations of 30 classes": lambda: viz.activations(
        model_of(np.eye(64, 30, dtype="f")), np.ones(64, "f"), classes=list(range(30))
    ),
    "activations of NaN": lambda: viz.activations(
        nn.Sequential(*model_of(np.full((64, 8), np.nan)).layers,
                      *model_of(np.ones((8, 3), "f")).layers), np.ones(64, "f"), classes="abc"
    ),
    "history of 12 measures": lambda: viz.history(
        {f"a_measure_of_a_long_name_{i}": [1.0, 2.0] for i in range(12)}
    ),
    "history of one epoch": lambda: viz.history({"loss": [1.0]}),
    "weights of 1 input": lambda: viz.weights(model_of(np.ones((1, 1), "f"))),
    "weights of 100 neurons": lambda: viz.weights(model_of(np.ones((17, 101), "f"))),
}  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_no_text_is_cut_off_or_hides_another(name):
    picture = AWKWARD[name]()
    assert clipped(picture) == []
    assert len(np.unique(decoded(picture).reshape(-1, 3), axis=0)) > 20


def test_activations_that_are_no_number_are_dark_and_told():
    for value in (np.nan, np.inf):
        model = nn.Sequential(*model_of(np.full((64, 8), value, "f")).layers,
                              *model_of(np.zeros((8, 3), "f")).layers)  # fmt: skip
        picture = viz.activations(model, np.ones(64, "f"), classes="abc", label="a")
        assert picture.text.startswith("no prediction") or value == np.inf
        assert "answers NaN or infinite" in picture.text
        picture._repr_png_()


def test_lines_of_activations_are_of_what_a_layer_was_given():
    first, second = (
        model_of(np.ones((4, 4), "f")).layers[0],
        model_of(np.eye(4, dtype="f")).layers[0],
    )
    from matplotlib.collections import LineCollection

    def lines(model, x):
        axes = viz.activations(model, x).figure.axes[0]
        return [c for c in axes.collections if isinstance(c, LineCollection)]

    x = np.arange(1, 5, dtype="f")
    assert len(lines(nn.Sequential(first, second), x)) == 2
    left, right = nn.Input((4,)), nn.Input((4,))
    apart = nn.Model([left, right], first(left) + second(right))
    assert len(lines(apart, [x[np.newaxis], 2 * x[np.newaxis]])) == 0


def test_history_says_what_is_not_drawn_and_counts_epochs_from_where_they_began():
    panel = viz.history({"loss": [1.0, float("nan"), float("inf")], "val_loss": [2.0, 3.0, 4.0]}
                        ).figure.axes[0]  # fmt: skip
    assert panel.get_xlabel() == "epoch (not drawn: 2 NaN or infinite)"
    resumed = History()
    for epoch in (5, 6):
        resumed.on_epoch_end(epoch, {"loss": 1.0})
    assert list(viz.history(resumed).figure.axes[0].lines[0].get_xdata()) == [6, 7]
    only = viz.history({"val_loss": [2.0, 1.0]}).figure.axes[0]
    assert only.get_title("left") == "loss" and len(only.lines) == 1


def test_one_epoch_is_marked_once():
    assert list(viz.history({"loss": [1.0]}).figure.axes[0].get_xticks()) == [1]


def test_roc_is_the_area_worked_out_by_hand():
    scores, y = np.array([0.9, 0.8, 0.7, 0.6, 0.2]), np.array([True, False, True, True, False])
    assert _curve(scores, y)[2] == pytest.approx(4 / 6)
    assert _curve(np.ones(4), np.array([True, False, True, False]))[2] == 0.5
    assert "0.6667" in viz.roc(scores, y.astype(int)).text
    with pytest.raises(nnx.DataError, match="one class"):
        viz.roc(scores, np.ones(5, int))


def test_probabilities_of_logits_are_stable_and_of_probabilities_themselves():
    np.testing.assert_allclose(probabilities([[1000.0, 0.0]]), [[1, 0]])
    np.testing.assert_allclose(probabilities([[0.25, 0.75]]), [[0.25, 0.75]])
    np.testing.assert_allclose(probabilities([[-800.0], [2.0]])[:, 1], [0, 1 / (1 + np.exp(-2))])
    infinite = probabilities([[np.inf, 0.0, np.inf], [-np.inf, 0.0, 0.0]])
    np.testing.assert_allclose(infinite, [[0.5, 0, 0.5], [0, 0.5, 0.5]])


def test_mistakes_are_the_surest_wrong_ones_first():
    scores = np.array([[0.1, 0.9], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6]])
    picture = viz.mistakes(scores, [0, 0, 1, 0], np.zeros((4, 3, 3)))
    shown = [axes.get_title() + axes.get_xlabel() for axes in picture.figure.axes if axes.axison]
    assert [title.rpartition(" ")[2] for title in shown] == ["0", "3"]
    assert "says 1, 90.0% sure" in shown[0] and "truth 0" in shown[0]
    assert "0 of 4 wrong" in viz.mistakes(scores, [1, 0, 1, 1], np.zeros((4, 3, 3))).text


def test_activations_tell_prediction_and_truth_and_change_nothing():
    model, x, _ = trained()
    best = int(model.predict(x[:1]).argmax())
    before = {key: value.copy() for key, value in model.state_dict().items()}
    picture = viz.activations(model, x[0], label="c", classes="abc")
    verdict = "right" if "abc"[best] == "c" else "wrong"
    assert f"prediction {'abc'[best]} (" in picture.text and f"truth c: {verdict}" in picture.text
    assert "forward" not in vars(model) and model.training
    assert all((before[key] == value).all() for key, value in model.state_dict().items())
    written = texts_of(picture.figure)
    assert "0 · Dense · tanh" in written


def test_activations_light_the_neuron_that_answers_most():
    columns = np.zeros((4, 3), "f")
    columns[0] = [0.0, 5.0, -2.0]
    picture = viz.activations(model_of(columns), np.array([1, 0, 0, 0], "f"))
    from matplotlib.collections import EllipseCollection

    layers = [c for c in picture.figure.axes[0].collections if isinstance(c, EllipseCollection)]
    faces, rims = layers[-1].get_facecolor(), layers[-1].get_edgecolor()
    from nnx.viz.picture import LIGHT, rgb

    np.testing.assert_allclose(faces[1, :3], rgb(LIGHT["lit"]) / 255)
    np.testing.assert_allclose(faces[0, :3], 1.0)
    np.testing.assert_allclose(rims[2, :3], rgb(LIGHT["negative"]) / 255)


def test_history_draws_what_was_measured():
    panels = viz.history({"loss": [3.0, 2.0], "val_loss": [4.0, 1.0], "accuracy": [0.1, 0.2]})
    loss, accuracy = panels.figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[3, 2], [4, 1]]
    assert list(accuracy.lines[0].get_ydata()) == [0.1, 0.2]
