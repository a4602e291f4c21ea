"""Implement the function `survey_minima`."""

from typing import Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state
from torch import nn

from sklearn_pgb._budget import SURVEY_POLISH
from sklearn_pgb._estimator._border import dense
from sklearn_pgb._models._open import is_network, nested
from sklearn_pgb._samples import check_samples
from sklearn_pgb._survey._ends import SurveyData, evaluate, number_minima
from sklearn_pgb._survey._examination import examine_ends
from sklearn_pgb._survey._population import train_population, train_separately
from sklearn_pgb._survey._recipe import find_recipe
from sklearn_pgb._survey._result import MinimaSurvey


def survey_minima(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    n_starts: int = 20,
    polish_iter: int | str = "auto",
    tol: float = 1e-6,
    n_jobs: int | None = None,
    sample_weight: Any = None,
    random_state: Any = None,
) -> MinimaSurvey:
    """Train a network from many starts and compare the minima that they reach.

    The networks of MLPRegressor, MLPClassifier, AddedNeuronRegressor and
    AddedNeuronClassifier, also inside pipelines, are trained together as one
    population. Initial parameters are drawn as in scikit-learn, and the objective is
    the estimator's, including its penalty, as in `certify`. Networks are trained by
    Adam with an annealed learning rate (not if ``solver="lbfgs"``), and then brought to
    critical points by L-BFGS and Newton steps. All samples are used, even if the
    estimator stops early. Any other network is cloned and fitted once per start.

    Networks are the same minimum if their predictions on the training samples agree:
    permutations and signs of hidden units, the scaling of ReLU units and inactive units
    make no difference.

    Parameters
    ----------
    estimator : estimator
        A network, or a Pipeline or TransformedTargetRegressor that ends in one. Losses
        are in the units of the network's targets, after any transformation.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Inputs of the estimator.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets or labels.
    n_starts : int, default=20
        Number of starts.
    polish_iter : int or "auto", default="auto"
        Number of L-BFGS iterations per start after a population is trained. Newton
        steps follow if the network is smooth and has at most 150 parameters. "auto" is
        1000 for small problems, fewer for larger ones, and none if polishing would take
        much longer than training: the verdicts are then "not_critical".
    tol : float, default=1e-6
        A network is critical if its gradient norm is at most `tol` times the difference
        between the loss of the best constant and the floor, and a certified global
        minimum if its objective exceeds the floor, or the bound of a convex model, by
        no more than that.
    n_jobs : int or None, default=None
        Number of tasks that run in parallel, through joblib. The result does not depend
        on it.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        Sample weights.
    random_state : int, RandomState instance or None, default=None
        Seed of all starts.

    Returns
    -------
    MinimaSurvey
        Has a method `to_frame()`, and prints as a summary.

    Raises
    ------
    TypeError
        If the estimator is not a network that can be trained.
    ValueError
        If the data or a parameter is invalid.

    See Also
    --------
    MinimaSurveyDisplay : Plot the result.
    AddedNeuronRegressor : Search for a global minimum (``n_starts > 1``).

    Examples
    --------
    XOR with two hidden units has a minimum with a loss of zero, up to the penalty, and
    others that predict zero for two of the four samples:

    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn_pgb import survey_minima
    >>> X = np.array([[-1.0, -1], [-1, 1], [1, -1], [1, 1]])
    >>> y = X[:, 0] * X[:, 1]
    >>> network = MLPRegressor(
    ...     hidden_layer_sizes=(2,), activation="tanh", solver="lbfgs", alpha=1e-3
    ... )
    >>> survey = survey_minima(network, X, y, n_starts=10, random_state=0)
    >>> sorted(set(survey.loss.round(2).tolist())), set(survey.verdict)
    ([0.0, 0.5], {'consistent_with_local_min'})
    """
    _check_request(estimator, n_starts, polish_iter, tol)
    X, y, weight = check_samples(X, y, sample_weight)
    y = dense(y)
    if weight is None:
        weight = np.ones(len(y))
    rng = check_random_state(random_state)
    seed = int(rng.randint(np.iinfo(np.int32).max))
    recipe = find_recipe(estimator, X, y, weight)
    if recipe is not None:
        data = recipe.data
        theta = train_population(
            recipe,
            n_starts,
            polish_iter=polish_iter,
            tol=SURVEY_POLISH * tol,
            seed=seed,
            n_jobs=n_jobs,
        )
        penalty = recipe.original_penalty()
        objectives = [data.objective(each, penalty) for each in recipe.networks(theta)]
    else:
        # Estimators whose fit takes no weights are trained if the user gives none.
        given = None if sample_weight is None else weight
        objectives = train_separately(estimator, X, y, given, n_starts, seed, n_jobs)
        first = objectives[0]
        data = SurveyData(first.X, first.y, first.weight, first.loss)
    scale = data.scale()
    ends = evaluate(objectives)
    minimum = number_minima(ends, data, scale.reference)
    bounds, budgets, verdicts = examine_ends(
        ends, minimum, scale=scale, tol=tol, seed=seed
    )
    linear = data.linear_infimum(scale.floor)
    return MinimaSurvey(
        loss=ends.loss,
        objective=ends.objective,
        gradient_norm=ends.gradient_norm,
        verdict=verdicts,
        minimum=minimum,
        gradient_basis_bound=bounds,
        gradient_basis_budget=budgets,
        floor=scale.floor,
        linear=linear.value,
        linear_bound=linear.lower_bound,
        linear_budget=linear.norm_budget,
        parameters=ends.theta,
        population=recipe is not None,
        tol=float(tol),
    )


# --- checks ---------------------------------------------------------------------------


def _check_request(estimator: Any, n_starts: Any, polish_iter: Any, tol: Any) -> None:
    if any(isinstance(each, nn.Module | FrozenEstimator) for each in nested(estimator)):
        raise TypeError(
            "estimator must be one that can be trained, got "
            f"{type(estimator).__name__}, which is already trained. Pass the unfrozen "
            "estimator, or a module in a skorch net or an AddedNeuronRegressor."
        )
    if not is_network(estimator):
        raise TypeError(
            "estimator must be a network, whose trainings end at many points, got "
            f"{type(estimator).__name__}. `certify` takes any model that can be opened."
        )
    whole = (int, np.integer)
    if not isinstance(n_starts, whole) or isinstance(n_starts, bool) or n_starts < 1:
        raise ValueError(f"n_starts must be an integer >= 1, got {n_starts!r}.")
    automatic = isinstance(polish_iter, str) and polish_iter == "auto"
    if not automatic and (not isinstance(polish_iter, whole) or polish_iter < 0):
        raise ValueError(
            f"polish_iter must be 'auto' or an integer >= 0, got {polish_iter!r}."
        )
    if not isinstance(tol, int | float | np.number) or not 0 < tol < np.inf:
        raise ValueError(f"tol must be a finite number > 0, got {tol!r}.")
