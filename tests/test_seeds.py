"""Seeds of networks, folds and sketches."""

import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_pgb._estimator._border import final_estimator
from sklearn_pgb._seeds import draw_seeds, fill_seeds, with_seed

SCALER = StandardScaler()


def mlp(**params):
    return MLPRegressor(hidden_layer_sizes=(3,), **({"random_state": 0} | params))


def test_seeds_come_from_random_state():
    a, b = (draw_seeds(mlp(random_state=s), 7) for s in (0, 1))
    assert a == b
    assert not a.keep_first
    assert len({a.folds, a.sketch, a.networks}) == 3
    assert a.of_networks(4)[:2] == a.of_networks(2)
    assert len(set(a.of_networks(4))) == 4


def test_seeds_come_from_the_estimator():
    """Without a `random_state` the first network is trained exactly as given."""
    inner = make_pipeline(SCALER, mlp(random_state=3))
    seeds = draw_seeds(inner, None)
    assert seeds == draw_seeds(make_pipeline(SCALER, mlp(random_state=3)), None)
    assert seeds != draw_seeds(make_pipeline(SCALER, mlp(random_state=4)), None)
    first, *others = seeds.of_networks(3)
    assert first is None
    assert len(set(others)) == 2


def test_seeds_reach_every_part():
    inner = TransformedTargetRegressor(make_pipeline(SCALER, mlp(random_state=3)))
    assert final_estimator(with_seed(inner, 11)).random_state == 11
    assert final_estimator(with_seed(inner, None)).random_state == 3
    assert with_seed(SCALER, 5) is not SCALER


def test_without_any_seed():
    """Modules have no `random_state`; fits without seed differ."""
    module = torch.nn.Linear(1, 1)
    assert draw_seeds(module, 3) == draw_seeds(module, 3)
    unseeded = mlp(random_state=None)
    assert draw_seeds(unseeded, None) != draw_seeds(unseeded, None)


def test_missing_seeds_are_filled_in_place():
    inner = make_pipeline(SCALER, mlp(random_state=None))
    fill_seeds(inner, 5)
    assert inner[-1].random_state == 5
    fill_seeds(inner, 6)
    assert inner[-1].random_state == 5
