"""scikit-learn's own checks of an estimator, and its tools around ours."""

import warnings

import numpy as np
import pytest
from chainrule import MADE, NADE, datasets

sklearn = pytest.importorskip("sklearn")
from sklearn.base import clone  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import Binarizer  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

# binarize=0.0: the checks feed real numbers, which the default refuses (only 0 and 1 are data there).
ESTIMATOR = NADE(n_hidden=4, max_epochs=3, batch_size=50, binarize=0.0, random_state=0)
MASKED = MADE(hidden_sizes=(8,), max_epochs=3, batch_size=50, binarize=0.0, random_state=0)
EXCEPTIONS: dict[str, str] = {}

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "does not inherit from BaseEstimator": duck typing is the point
    every_check = parametrize_with_checks([ESTIMATOR, MASKED], expected_failed_checks=lambda estimator: EXCEPTIONS)


@pytest.mark.filterwarnings("ignore:Estimator (NADE|MADE) does not inherit")
@every_check
def test_estimator_contract(estimator, check):
    check(estimator)


def test_enough_checks_run():
    from sklearn.utils.estimator_checks import estimator_checks_generator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(list(estimator_checks_generator(ESTIMATOR))) - len(EXCEPTIONS) >= 45


def test_pipeline_grid_search_and_cross_validation():
    grey = datasets.digits(binarize=False).train[:150]
    pipeline = make_pipeline(Binarizer(threshold=7), NADE(n_hidden=8, max_epochs=3, random_state=0))
    search = GridSearchCV(pipeline, {"nade__n_hidden": [4, 8], "nade__learning_rate": [1e-3, 1e-2]}, cv=2).fit(grey)
    assert search.best_params_["nade__learning_rate"] == 1e-2
    assert search.best_estimator_.score(grey) == pytest.approx(search.best_estimator_.score_samples(grey).mean())
    scores = cross_val_score(search.best_estimator_, grey, cv=3)
    assert scores.shape == (3,)
    assert (scores < 0).all()


def test_clone_and_joblib():
    from joblib import Parallel, delayed

    X = datasets.digits().train[:100]
    model = NADE(n_hidden=6, max_epochs=2, random_state=0, optimizer_options={"beta1": 0.8}).fit(X)
    other = clone(model)
    assert not hasattr(other, "parameters_")
    assert other.get_params() == model.get_params()
    expected = model.score_samples(X)
    for backend in ("loky", "threading"):
        parts = Parallel(n_jobs=2, backend=backend)(delayed(model.score_samples)(X[k::2]) for k in range(2))
        assert (parts[0] == expected[::2]).all()
        assert (parts[1] == expected[1::2]).all()


def test_not_fitted_is_theirs_and_ours():
    import chainrule
    from sklearn.exceptions import NotFittedError

    for error in (NotFittedError, chainrule.NotFittedError):
        with pytest.raises(error):
            NADE().score_samples(np.eye(3))
