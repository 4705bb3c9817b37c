"""Pictures draw the numbers they claim, into the axes they are given."""

import numpy as np
import pytest
from chainrule import NADE, IndependentBernoulli, Tabular, datasets, metrics, plots

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

EVERY = ("per_variable_scores", "marginals", "correlations", "calibration", "pit")
SEED = {"random_state": 3}


@pytest.fixture(scope="module")
def digits():
    return datasets.digits()


@pytest.fixture(scope="module")
def model(digits):
    return NADE(n_hidden=20, max_epochs=4, learning_rate=0.01, random_state=0).fit(
        digits.train, X_val=digits.validation
    )


def render(ax):
    """The picture is drawn, its texts inside the figure and none upon another."""
    figure = ax.figure
    FigureCanvasAgg(figure).draw()
    frame = figure.bbox.padded(1)
    texts = [ax.xaxis.label, ax.yaxis.label, ax.title]
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        texts += [label for at, label in ticks if low <= at <= high]
    boxes = [t.get_window_extent() for t in texts if t.get_text()]
    for k, box in enumerate(boxes):
        assert frame.contains(box.x0, box.y0), texts
        assert frame.contains(box.x1, box.y1), texts
        assert not any(box.overlaps(other) for other in boxes[:k]), texts


@pytest.mark.parametrize("name", EVERY)
def test_axes_are_given_or_made_labelled_and_returned(name, model, digits):
    draw = getattr(plots, name)
    ax = Figure(layout="constrained").subplots()
    assert draw(model, digits.test, ax) is ax
    made = draw(model, digits.test)
    assert made is not ax
    for each in (ax, made):
        assert each.get_xlabel()
        assert each.get_ylabel()
        render(each)


def test_image_grid(digits):
    axes = Figure().subplots()
    assert plots.image_grid(digits.test[:7], (8, 8), axes, columns=3) is axes
    image = axes.images[0].get_array()
    assert image.shape == (3 * 9 + 1, 3 * 9 + 1)
    np.testing.assert_array_equal(image[1:9, 1:9], digits.test[0].reshape(8, 8))
    np.testing.assert_array_equal(image[10:18, 19:27], digits.test[5].reshape(8, 8))
    assert image.mask[19:, 10:].all(), "no eighth image"


def test_learning_curve(model):
    ax = plots.learning_curve(model)
    train, validation, kept = (line.get_ydata() for line in ax.lines)
    np.testing.assert_array_equal(train, model.history_["train"])
    np.testing.assert_array_equal(validation, model.history_["validation"])
    np.testing.assert_array_equal(kept, [max(model.history_["validation"])])
    assert "nats" in ax.get_ylabel()
    render(ax)
    alone = plots.learning_curve(NADE(n_hidden=2, max_epochs=2, random_state=0).fit(np.eye(4)))
    assert len(alone.lines) == 1


def test_per_variable_scores(model, digits):
    terms = -model.score_samples(digits.test, per_variable=True)
    bars = plots.per_variable_scores(model, digits.test)
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], terms.mean(0), rtol=1e-12)
    segments = bars.collections[0].get_segments()  # the standard errors
    np.testing.assert_allclose([np.ptp(s[:, 1]) / 2 for s in segments], terms.std(0, ddof=1) / np.sqrt(299), rtol=1e-9)
    assert "nats" in bars.get_ylabel()

    heat = plots.per_variable_scores(model, digits.test, shape=(8, 8))
    np.testing.assert_allclose(heat.images[0].get_array(), terms.mean(0).reshape(8, 8), rtol=1e-12)
    assert "nats" in heat.figure.axes[1].get_ylabel(), "the colour bar says what it shows"
    render(heat)
    assert len(plots.per_variable_scores(model, digits.test[:1]).patches) == 64  # one row has no standard error


def test_variables_are_called_by_their_names():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.eye(3, dtype=int), columns=["rain", "wind", "a longer name"])
    named = IndependentBernoulli().fit(frame)
    ax = plots.per_variable_scores(named, frame)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["rain", "wind", "a longer name"]
    render(ax)
    for name in ("marginals", "correlations", "calibration", "pit"):
        getattr(plots, name)(named, frame)


def test_marginals(model, digits):
    ax = plots.marginals(model, digits.test, n_samples=500, **SEED)
    drawn = model.sample(500, **SEED).mean(0)
    points, diagonal = ax.lines[-1], ax.lines[0]
    np.testing.assert_allclose(points.get_xdata(), drawn, rtol=1e-12)
    np.testing.assert_allclose(points.get_ydata(), digits.test.mean(0), rtol=1e-12)
    assert diagonal.get_slope() == 1
    across, up = (np.array([np.ptp(s, 0).max() / 2 for s in c.get_segments()]) for c in ax.collections)
    np.testing.assert_allclose(across, np.sqrt(drawn * (1 - drawn) / 500), atol=1e-12)
    np.testing.assert_allclose(up, np.sqrt(digits.test.mean(0) * (1 - digits.test.mean(0)) / 299), atol=1e-12)
    assert "500 samples" in ax.get_xlabel()
    assert "299 rows" in ax.get_ylabel()


def test_correlations(model, digits):
    ax = plots.correlations(model, digits.test, n_samples=500, **SEED)
    drawn = model.sample(500, **SEED)
    varies = (np.ptp(digits.test, 0) > 0) & (np.ptp(drawn, 0) > 0)
    assert not varies.all(), "a constant column has no correlation"
    i, j = np.triu_indices(varies.sum(), 1)
    x, y = ax.lines[-1].get_data()
    np.testing.assert_allclose(x, np.corrcoef(drawn[:, varies].T)[i, j], rtol=1e-9)
    np.testing.assert_allclose(y, np.corrcoef(digits.test[:, varies].T)[i, j], rtol=1e-9)
    upper = ax.collections[0].get_paths()[0].vertices
    assert abs(upper[:, 1] - upper[:, 0]).max() == pytest.approx(2 * np.sqrt(1 / 299 + 1 / 500), rel=0.01)
    plots.correlations(IndependentBernoulli().fit([[0], [1]]), [[0], [1]])  # a single variable has no pairs


def test_calibration(model, digits):
    found = metrics.calibration(model, digits.test, 8)
    ax = plots.calibration(model, digits.test, n_bins=8)
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), found.bin_predicted)
    np.testing.assert_array_equal(ax.lines[-1].get_ydata(), found.bin_observed)
    errors = [np.ptp(s[:, 1]) / 2 for s in ax.collections[0].get_segments()]
    np.testing.assert_allclose(errors, found.bin_error, rtol=1e-9)
    np.testing.assert_allclose([b.get_height() for b in ax.patches], found.bin_count / digits.test.size, rtol=1e-12)
    for bar, predicted in zip(ax.patches, found.bin_predicted, strict=True):
        assert bar.get_x() <= predicted <= bar.get_x() + bar.get_width()


@pytest.mark.parametrize("column", [None, 20])
def test_pit(model, digits, column):
    ax = plots.pit(model, digits.test, column=column, bins=10, **SEED)
    u = metrics.pit(model, digits.test, **SEED)
    u = u.ravel() if column is None else u[:, column]
    density, edges, _ = ax.patches[-1].get_data()
    np.testing.assert_allclose(density * len(u) / 10, np.histogram(u, 10, (0, 1))[0], rtol=1e-9)
    np.testing.assert_allclose(edges, np.arange(11) / 10, atol=1e-12)
    test = metrics.pit_test(model, digits.test, **SEED)
    p_value = test.overall if column is None else test.p_value[column]
    assert f"uniform {p_value:.2g}" in ax.get_title()
    assert ("independent" in ax.get_title()) == (column is None)
    assert "299 rows" in ax.get_title()
    band = ax.patches[0]
    assert band.get_height() / 2 == pytest.approx(1.96 * np.sqrt(10 / len(u) * 0.9), rel=1e-9)


def test_categories_have_a_pit_and_scores():
    X = np.random.default_rng(0).integers(0, 3, (200, 2))
    table = Tabular().fit(X)
    render(plots.pit(table, X))
    render(plots.per_variable_scores(table, X))
    with pytest.raises(ValueError, match="two values"):
        plots.calibration(table, X)


def test_spectrograms(tmp_path):
    rate, t = 8000, np.arange(4000) / 8000
    low, high = (0.5 * np.sin(2 * np.pi * f * t) for f in (1000, 3000))
    words = (high[:2000] * 32767).astype(np.int16)
    figure = plots.spectrograms([low, high, words], rate, ["low", "high", "short"], tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in panels] == ["low", "high", "short"]
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("time, s", "frequency, kHz")
    assert any("dB" in ax.get_ylabel() for ax in figure.axes)
    for ax, frequency in zip(panels, (1, 3, 3), strict=True):
        level, (start, stop, bottom, top) = ax.images[0].get_array(), ax.images[0].get_extent()
        assert (start, bottom, top) == (0, 0, 4)
        middle = level[:, level.shape[1] // 2]
        assert np.argmax(middle) / (len(middle) - 1) * top == pytest.approx(frequency, abs=0.05)
        assert middle.max() == pytest.approx(-6.02, abs=0.05), "half of full scale"
        assert ax.get_xlim() == (0, 0.5), "one time scale"
        assert ax.images[0].get_clim() == panels[0].images[0].get_clim(), "one range of levels"
        assert stop == (0.25 if ax is panels[2] else 0.5)
    render(panels[2])
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in panels] == [False, True, True], "nothing below"
    plots.spectrograms([np.zeros(3)], rate, ["nothing"])
    with pytest.raises(ValueError, match="2 signals, 1 titles"):
        plots.spectrograms([low, high], rate, ["one"])
