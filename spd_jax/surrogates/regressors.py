"""Rivals from scikit-learn: a Gaussian process and a random forest on feature vectors.

Both see each feature with mean 0 and standard deviation 1. What is saved is the
data they were fitted on and their few numbers, never a pickle; `load` fits
again, which gives the same predictions under the same scikit-learn.
"""

import dataclasses
import importlib
import warnings
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from spd_jax import archs as archs_lib
from spd_jax import files
from spd_jax.axes import Archs, Key
from spd_jax.checks import is_count
from spd_jax.errors import UserError, check_name
from spd_jax.surrogates import protocol

KERNELS = ("rbf", "matern")


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """Gaussian-process regression, `constant * kernel + white noise` (Rasmussen & Williams, 2006).

    Its hyper-parameters maximise the marginal likelihood, from 6 starting points.

    Attributes:
      features: archs of M motifs -> vectors `[M, F]`.
      kernel: "rbf", or "matern" (nu = 2.5), with one length scale for all features.
    """

    features: protocol.ToVectors
    kernel: str = "rbf"

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedRegressor":
        """Maximise the marginal likelihood, from starting points that `key` draws.

        Arguments as `protocol.Surrogate.fit`; the fitted process predicts the posterior mean.

        Raises:
          UserError: fewer than 2 finite scores, shapes that disagree, an unknown
            kernel, or scikit-learn is missing.
        """
        check_name("kernel", self.kernel, KERNELS)
        vectors, scores = _known_vectors(self.features, archs, scores)
        convergence_warning = _sklearn("exceptions").ConvergenceWarning
        search = _sklearn("gaussian_process").GaussianProcessRegressor(
            self._kernel(), normalize_y=True, n_restarts_optimizer=5, random_state=_seed(key)
        )
        with warnings.catch_warnings():
            # The bounds are wide, and ending on one is an answer: no noise at all, or scores
            # that the features do not explain. A restart cut short leaves the best of the others.
            warnings.simplefilter("ignore", convergence_warning)
            search.fit(_standardise(vectors, vectors), scores)
        data = {"vectors": vectors, "scores": scores, "theta": search.kernel_.theta}
        return self._restore(data | {"kernel": np.asarray(self.kernel)})

    def load(self, path: protocol.Path) -> "FittedRegressor":
        """Read a saved process, with its own kernel; errors as `protocol.Surrogate.load`."""
        return protocol.restore(path, type(self).__name__, self._restore)

    def with_features(self, features: protocol.ToVectors) -> "GaussianProcess":
        """Return the same process on other vectors."""
        return dataclasses.replace(self, features=features)

    def _kernel(self) -> Any:
        kernels = _sklearn("gaussian_process.kernels")
        shape = kernels.RBF if self.kernel == "rbf" else kernels.Matern
        settings = {} if self.kernel == "rbf" else {"nu": 2.5}
        similarity = shape(length_scale=1.0, length_scale_bounds=(1e-2, 1e3), **settings)
        noise = kernels.WhiteKernel(noise_level=1e-2, noise_level_bounds=(1e-6, 1e1))
        return kernels.ConstantKernel(1.0, (1e-3, 1e4)) * similarity + noise

    def _restore(self, data: dict[str, np.ndarray]) -> "FittedRegressor":
        """Condition on the data with the hyper-parameters `exp(theta)`, as `fit` and `load` do."""
        fitted = dataclasses.replace(self, kernel=str(data["kernel"]))
        check_name("kernel", fitted.kernel, KERNELS)
        model = _sklearn("gaussian_process").GaussianProcessRegressor(
            fitted._kernel().clone_with_theta(data["theta"]), normalize_y=True, optimizer=None
        )
        return FittedRegressor.on(data, model, self.features, kind=type(self).__name__)


@dataclasses.dataclass(frozen=True)
class RandomForest:
    """Random-forest regression (Breiman, 2001): the mean of trees grown on resampled motifs.

    Attributes:
      features: archs of M motifs -> vectors `[M, F]`.
      trees: how many.
    """

    features: protocol.ToVectors
    trees: int = 200

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedRegressor":
        """Grow the trees on known scores; arguments as `protocol.Surrogate.fit`.

        Raises:
          UserError: fewer than 2 finite scores, shapes that disagree, fewer than one
            tree, or scikit-learn is missing.
        """
        if not is_count(self.trees, 1):
            raise UserError(f"trees is {self.trees!r}: give at least 1, a whole number")
        vectors, scores = _known_vectors(self.features, archs, scores)
        data = {"vectors": vectors, "scores": scores}
        return self._restore(
            data | {"trees": np.asarray(self.trees), "seed": np.asarray(_seed(key))}
        )

    def load(self, path: protocol.Path) -> "FittedRegressor":
        """Read a saved forest and grow it again; errors as `protocol.Surrogate.load`."""
        return protocol.restore(path, type(self).__name__, self._restore)

    def with_features(self, features: protocol.ToVectors) -> "RandomForest":
        """Return the same forest on other vectors."""
        return dataclasses.replace(self, features=features)

    def _restore(self, data: dict[str, np.ndarray]) -> "FittedRegressor":
        model = _sklearn("ensemble").RandomForestRegressor(
            n_estimators=int(data["trees"]), random_state=int(data["seed"])
        )
        return FittedRegressor.on(data, model, self.features, kind=type(self).__name__)


@dataclasses.dataclass(frozen=True)
class FittedRegressor:
    """A fitted scikit-learn model and all that it was fitted on.

    Attributes:
      model: the scikit-learn regressor, on standardised vectors.
      features: archs of M motifs -> vectors `[M, F]`.
      data: the arrays that `save` writes: vectors `[K, F]`, scores `[K]`, the rest.
      kind: name of the surrogate.
    """

    model: Any
    features: protocol.ToVectors
    data: dict[str, np.ndarray]
    kind: str

    @classmethod
    def on(
        cls, data: dict[str, np.ndarray], model: Any, features: protocol.ToVectors, *, kind: str
    ) -> "FittedRegressor":
        """Fit `model` on the vectors and scores in `data`."""
        model.fit(_standardise(data["vectors"], data["vectors"]), data["scores"])
        return cls(model, features, data, kind)

    def predict(self, archs: Archs) -> np.ndarray:
        """Return scores `[M]` float64, in the unit of the fitted scores."""
        vectors = _vectors(self.features, archs)
        return self.model.predict(_standardise(vectors, self.data["vectors"]))

    def save(self, path: protocol.Path) -> None:
        """Write the data and the few numbers from which `load` fits again."""
        files.save_arrays(path, self.data, kind=self.kind)


def _known_vectors(
    features: protocol.ToVectors, archs: Archs, scores: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    archs, finite_scores = archs_lib.known(archs, scores)
    return _vectors(features, archs), finite_scores


def _vectors(features: protocol.ToVectors, archs: Archs) -> np.ndarray:
    """Return the archs' feature vectors `[M, F]` float64, checked."""
    vectors = np.asarray(features(archs), np.float64)
    motifs = archs_lib.count(archs)
    if vectors.ndim != 2 or len(vectors) != motifs or not np.isfinite(vectors).all():
        raise UserError(
            f"features of {motifs} motifs have shape {vectors.shape}: "
            "give one row of finite numbers per motif"
        )
    return vectors


def _standardise(vectors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Scale each column by the reference's; a column that is constant there is only shifted."""
    std = reference.std(axis=0)
    return (vectors - reference.mean(axis=0)) / np.where(std > 0, std, 1.0)


def _seed(key: Key) -> int:
    return int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))


def _sklearn(module: str) -> Any:
    """Import a module of scikit-learn, which is an extra, when it is first needed."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise UserError(
            "this surrogate needs scikit-learn: pip install spd_jax[experiments]"
        ) from error
