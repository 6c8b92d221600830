"""The dish as a scikit-learn estimator: `clone`, pipelines, cross-validation and grid search.

scikit-learn knows tables of numbers, not archs: one row for each motif. Which arrays a row
stands for is read from one example of an arch.
"""

import dataclasses
from typing import Any, Self

import jax
import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from spd_jax import archs as archs_lib
from spd_jax import dish
from spd_jax.axes import Arch, Archs, Key
from spd_jax.dish import DishConfig
from spd_jax.errors import UserError
from spd_jax.files import Path
from spd_jax.motif import MotifFamily
from spd_jax.surrogates.dish_surrogate import DishSurrogate, FittedDish
from spd_jax.surrogates.uncertainty import Calibration

_OF_CONFIG = "config__"  # scikit-learn's spelling of a setting inside a parameter


def to_rows(archs: Archs) -> np.ndarray:
    """Return archs `[M]` as a table `[M, F]` float64: their arrays flattened, side by side.

    >>> to_rows({"width": np.array([3, 5]), "rates": np.array([[0.5, 1.0], [0.0, 2.0]])})
    array([[0.5, 1. , 3. ],
           [0. , 2. , 5. ]])
    """
    count = archs_lib.count(archs)
    leaves = [np.asarray(leaf, np.float64).reshape(count, -1) for leaf in jax.tree.leaves(archs)]
    return np.concatenate(leaves, axis=1)


def to_archs(rows: ArrayLike, like: Arch) -> Archs:
    """Return the archs `[M]` that rows `[M, F]` of `to_rows` stand for.

    Args:
      rows: one motif in each.
      like: one arch, or anything with its shapes and data types.

    Raises:
      UserError: a row has more or fewer numbers than an arch.
    """
    rows = np.asarray(rows)
    leaves, structure = jax.tree.flatten(like)
    sizes = [int(np.prod(np.shape(leaf))) for leaf in leaves]
    if rows.ndim != 2 or rows.shape[1] != sum(sizes):
        raise UserError(
            f"rows have shape {rows.shape}, but an arch has {sum(sizes)} numbers: give one row of "
            "so many for each motif, as to_rows makes them"
        )
    parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
    archs = [
        part.reshape(len(rows), *np.shape(leaf)).astype(_dtype(leaf))
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, archs)


def _dtype(leaf: Any) -> np.dtype:
    """Return the data type of an array, or the one that jax gives a plain number."""
    return np.dtype(leaf.dtype if hasattr(leaf, "dtype") else jax.numpy.asarray(leaf).dtype)


class DishRegressor(RegressorMixin, BaseEstimator):
    """A Synthetic Petri Dish as a regressor: motifs in the rows of X, known scores in y.

    `score` is R^2, as of every regressor. To choose settings by rank, give scikit-learn a scorer:
    `scoring=lambda model, X, y: spd.kendall_tau(model.predict(X), y)`. Settings of the dish can be
    searched as `config__outer_steps` and so on.

    Attributes:
      family: the motif-network.
      config: settings of the dish; None: the defaults of `DishConfig`.
      arch: one arch, an example of what a row stands for (see `to_rows`); None: a row is itself
        the arch, one array `[F]` float32.
      held_out_share: share of the known motifs that early stopping holds out, see
        `DishSurrogate`.
      random_state: a seed, which `jax.random.key` takes, so that the dish is that of
        `DishSurrogate.fit(jax.random.key(seed), ...)`, or such a key itself; a NumPy RandomState or
        None draws a seed.
      sharding: where a batch's motif axis lies, for several devices; an estimator that has one
        cannot be saved by pickle.
      fitted_: the `FittedDish`, once `fit` was called.
      calibration_: what makes `return_std` of the members' spread.
      n_features_in_: F, numbers in a row.
    """

    def __init__(
        self,
        family: MotifFamily,
        config: DishConfig | None = None,
        *,
        arch: Arch = None,
        held_out_share: float = 0.0,
        random_state: int | np.random.RandomState | jax.Array | None = 0,
        sharding: jax.sharding.Sharding | None = None,
    ) -> None:
        """Keep the settings, as scikit-learn asks; `fit` checks them."""
        self.family = family
        self.config = config
        self.arch = arch
        self.held_out_share = held_out_share
        self.random_state = random_state
        self.sharding = sharding

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803
        """Learn the synthetic data from motifs whose scores are known.

        Args:
          X: motifs `[M, F]`, one in each row; leave out those that failed.
          y: their scores `[M]`, higher is better.

        Returns:
          The estimator itself.

        Raises:
          ValueError: X or y is not what scikit-learn takes, fewer than 2 motifs, scores that are
            all equal, or what else `DishSurrogate.fit` refuses.
        """
        rows, truth = validate_data(self, X, y, y_numeric=True, ensure_min_samples=2)
        archs = self._archs(rows)
        config = DishConfig() if self.config is None else self.config
        surrogate = DishSurrogate(self.family, config, self.held_out_share, self.sharding)
        self.fitted_ = surrogate.fit(self._key(), archs, truth)
        self.calibration_ = Calibration.of(self.fitted_.by_member(archs), truth)
        return self

    def predict(
        self,
        X: ArrayLike,  # noqa: N803
        return_std: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return predicted scores, in the unit of the known ones.

        Args:
          X: motifs `[M, F]`.
          return_std: return the standard deviation of each prediction, too: the spread of the
            dish's members, calibrated on the known motifs (see `Calibration`).

        Returns:
          Scores `[M]` float64, higher is better, NaN where the inner training diverged; with
          `return_std` these and their standard deviations `[M]`.
        """
        check_is_fitted(self)
        archs = self._archs(validate_data(self, X, reset=False))
        if not return_std:
            return self.fitted_.predict(archs)
        own = self.fitted_.surrogate
        members = dish.predict(
            self.fitted_.state, own.family, own.config, archs, per_member=True,
            sharding=own.sharding,
        )  # fmt: skip
        median = self.fitted_.in_unit(np.median(members, axis=0))
        return median, self.calibration_.std(self.fitted_.in_unit(members))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name; with `deep` also the settings inside `config`."""
        params = super().get_params(deep)
        if deep and dataclasses.is_dataclass(self.config):
            for field in dataclasses.fields(self.config):
                params[_OF_CONFIG + field.name] = getattr(self.config, field.name)
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, those inside `config` as `config__outer_steps=20`."""
        own = {name: value for name, value in params.items() if not name.startswith(_OF_CONFIG)}
        super().set_params(**own)
        inside = {
            name.removeprefix(_OF_CONFIG): value
            for name, value in params.items()
            if name not in own
        }
        if inside:
            config = DishConfig() if self.config is None else self.config
            unknown = set(inside) - {field.name for field in dataclasses.fields(config)}
            if unknown:
                raise UserError(f"config has no setting {min(unknown)!r}: see DishConfig")
            self.config = dataclasses.replace(config, **inside)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle saves; older versions of jax cannot save a random key as it is."""
        saved = dict(super().__getstate__())
        if "fitted_" in saved:
            key = self.fitted_.state.key
            saved["fitted_"] = _with_key(self.fitted_, jax.random.key_data(key))
            saved["key_impl_"] = str(jax.random.key_impl(key))
        return saved

    def __setstate__(self, saved: dict[str, Any]) -> None:
        """Restore what `__getstate__` returned."""
        kind = saved.pop("key_impl_", None)
        super().__setstate__(saved)
        if kind is not None:
            key = jax.random.wrap_key_data(self.fitted_.state.key, impl=kind)
            self.fitted_ = _with_key(self.fitted_, key)

    def __sklearn_tags__(self) -> Any:
        """Say that nothing is promised about the fit of any table of numbers.

        What a dish can predict depends on its family: it is no function of the rows alone.
        """
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags

    def _archs(self, rows: np.ndarray) -> Archs:
        """Return the motifs that checked rows stand for."""
        return rows.astype(np.float32) if self.arch is None else to_archs(rows, self.arch)

    def _key(self) -> jax.Array:
        seed = self.random_state
        if isinstance(seed, jax.Array) and jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key):
            return seed
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        return jax.random.key(seed)


@dataclasses.dataclass(frozen=True)
class ThroughRegressor:
    """A dish that learns and predicts through a `DishRegressor`: a surrogate like any other.

    The league shows by it that the face costs nothing: what it predicts is what the dish predicts.

    Attributes:
      dish: the dish's settings.
    """

    dish: DishSurrogate

    def fit(self, key: Key, archs: Archs, scores: Any) -> "FittedRegressor":
        """Return the fitted estimator; arguments and errors as `protocol.Surrogate.fit`."""
        archs, truth = archs_lib.known(archs, np.asarray(scores))
        own, example = self.dish, archs_lib.unstack(archs)[0]
        model = DishRegressor(
            own.family, own.config, arch=example, held_out_share=own.held_out_share,
            random_state=key, sharding=own.sharding,
        )  # fmt: skip
        return FittedRegressor(model.fit(to_rows(archs), truth))

    def load(self, path: Path) -> "FittedRegressor":
        """Refuse: scikit-learn saves its estimators by pickle."""
        raise UserError(f"{path} cannot be loaded: save the dish itself, or pickle the estimator")


@dataclasses.dataclass(frozen=True)
class FittedRegressor:
    """A fitted `DishRegressor`, called with archs."""

    model: DishRegressor

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` in the unit of the known scores."""
        return np.asarray(self.model.predict(to_rows(archs)))

    def by_member(self, archs: Archs) -> np.ndarray:
        """Return every member's scores `[E, M]`."""
        return self.model.fitted_.by_member(archs)

    def save(self, path: Path) -> None:
        """Refuse, see `ThroughRegressor.load`."""
        raise UserError(f"{path} cannot be written: save the dish itself, or pickle the estimator")


def _with_key(fitted: FittedDish, key: jax.Array) -> FittedDish:
    return dataclasses.replace(fitted, state=dataclasses.replace(fitted.state, key=key))
