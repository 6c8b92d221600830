"""Rivals from scikit-learn: regressors on feature vectors.

All of them see each feature with mean 0 and standard deviation 1. What is saved is the
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
from spd_jax.checks import is_count, is_number
from spd_jax.errors import UserError, check_name
from spd_jax.surrogates import protocol

KERNELS = ("rbf", "matern", "linear_rbf", "linear_matern")


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """Gaussian-process regression, `constant * kernel + white noise` (Rasmussen & Williams, 2006).

    Its hyper-parameters maximise the marginal likelihood, from 6 starting points.

    Attributes:
      features: archs of M motifs -> vectors `[M, F]`.
      kernel: "rbf", or "matern" (nu = 2.5), with one length scale for all features; or the sum
        of a linear kernel and one of these, "linear_rbf" and "linear_matern": a ridge regression
        whose errors are a process.
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
        if self.kernel.endswith("rbf"):
            similarity = kernels.RBF(length_scale=1.0, length_scale_bounds=(1e-2, 1e3))
        else:
            similarity = kernels.Matern(length_scale=1.0, length_scale_bounds=(1e-2, 1e3), nu=2.5)
        signal = kernels.ConstantKernel(1.0, (1e-3, 1e4)) * similarity
        if self.kernel.startswith("linear"):
            line = kernels.DotProduct(sigma_0=0.0, sigma_0_bounds="fixed")
            signal += kernels.ConstantKernel(1e-2, (1e-5, 1e2)) * line
        return signal + kernels.WhiteKernel(noise_level=1e-2, noise_level_bounds=(1e-6, 1e1))

    def _restore(self, data: dict[str, np.ndarray]) -> "FittedRegressor":
        """Condition on the data with the hyper-parameters `exp(theta)`, as `fit` and `load` do."""
        fitted = dataclasses.replace(self, kernel=str(data["kernel"]))
        check_name("kernel", fitted.kernel, KERNELS)
        model = _sklearn("gaussian_process").GaussianProcessRegressor(
            fitted._kernel().clone_with_theta(data["theta"]), normalize_y=True, optimizer=None
        )
        return FittedRegressor.on(data, model, self.features, kind=type(self).__name__)


class _Refitted:
    """What regressors share whose fit repeats itself, given settings, data and a seed."""

    features: protocol.ToVectors

    def fit(self, key: Key, archs: Archs, scores: ArrayLike) -> "FittedRegressor":
        """Fit on known scores; arguments as `protocol.Surrogate.fit`.

        Raises:
          UserError: fewer than 2 finite scores, shapes that disagree, a setting that is not
            allowed, or scikit-learn is missing.
        """
        settings = self._settings(_seed(key))
        vectors, scores = _known_vectors(self.features, archs, scores)
        data = {"vectors": vectors, "scores": scores}
        return self._restore(data | {name: np.asarray(own) for name, own in settings.items()})

    def load(self, path: protocol.Path) -> "FittedRegressor":
        """Read saved settings and data, and fit again; errors as `protocol.Surrogate.load`."""
        return protocol.restore(path, type(self).__name__, self._restore)

    def with_features(self, features: protocol.ToVectors) -> Any:
        """Return the same regressor on other vectors."""
        return dataclasses.replace(self, features=features)  # type: ignore[type-var]

    def _restore(self, data: dict[str, np.ndarray]) -> "FittedRegressor":
        kind = type(self).__name__
        return FittedRegressor.on(data, self._model(data), self.features, kind=kind)

    def _settings(self, seed: int) -> dict[str, Any]:
        """Return the settings by name, once they are allowed; the seed if it is used."""
        raise NotImplementedError

    def _model(self, data: dict[str, np.ndarray]) -> Any:
        """Return the scikit-learn model of settings and seed."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class RandomForest(_Refitted):
    """Random-forest regression (Breiman, 2001): the mean of trees grown on resampled motifs.

    Attributes:
      features: archs of M motifs -> vectors `[M, F]`.
      trees: how many.
      feature_share: share of the features that a split chooses from, above 0 and at most 1.
      smallest_leaf: motifs in a leaf, at least.
    """

    features: protocol.ToVectors
    trees: int = 200
    feature_share: float = 1.0
    smallest_leaf: int = 1

    def _settings(self, seed: int) -> dict[str, Any]:
        for name in ("trees", "smallest_leaf"):
            if not is_count(getattr(self, name), 1):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}: give at least 1, a whole number"
                )
        if not (is_number(self.feature_share, 0, 1) and self.feature_share):
            raise UserError(
                f"feature_share is {self.feature_share!r}: give a number above 0 and at most 1"
            )
        return {
            "trees": self.trees,
            "feature_share": float(self.feature_share),
            "smallest_leaf": self.smallest_leaf,
            "seed": seed,
        }

    def _model(self, data: dict[str, np.ndarray]) -> Any:
        return _sklearn("ensemble").RandomForestRegressor(
            n_estimators=int(data["trees"]),
            max_features=float(data["feature_share"]),
            min_samples_leaf=int(data["smallest_leaf"]),
            random_state=int(data["seed"]),
        )


@dataclasses.dataclass(frozen=True)
class Mlp(_Refitted):
    """A multilayer perceptron, trained by L-BFGS on z-scored scores (Liu and Nocedal, 1989).

    Attributes:
      features: archs of M motifs -> vectors `[M, F]`.
      hidden: width of each hidden layer of ReLUs.
      l2: factor of half the sum of squared weights, which is added to the sum of half the squared
        errors; both are divided by the number of motifs.
      steps: of L-BFGS, at most.
    """

    features: protocol.ToVectors
    hidden: tuple[int, ...] = (32,)
    l2: float = 1.0
    steps: int = 200

    def _settings(self, seed: int) -> dict[str, Any]:
        if not (self.hidden and all(is_count(width, 1) for width in self.hidden)):
            raise UserError(f"hidden is {self.hidden!r}: give the width of each hidden layer")
        if not is_count(self.steps, 1):
            raise UserError(f"steps is {self.steps!r}: give at least 1, a whole number")
        if not is_number(self.l2):
            raise UserError(f"l2 is {self.l2!r}: give a finite number that is not negative")
        return {"hidden": self.hidden, "l2": float(self.l2), "steps": self.steps, "seed": seed}

    def _model(self, data: dict[str, np.ndarray]) -> Any:
        model = _sklearn("neural_network").MLPRegressor(
            hidden_layer_sizes=tuple(int(width) for width in data["hidden"]),
            alpha=float(data["l2"]),
            max_iter=int(data["steps"]),
            solver="lbfgs",
            random_state=int(data["seed"]),
        )
        return _on_standard_scores(model, data["scores"])


@dataclasses.dataclass(frozen=True)
class SupportVectors(_Refitted):
    """Nu support-vector regression with an RBF kernel on z-scored scores (Schoelkopf et al., 2000).

    Attributes:
      features: archs of M motifs -> vectors `[M, F]`.
      nu: share of the motifs that may lie outside the tube, at most; and of support vectors, at
        least. Above 0 and at most 1.
      penalty: C, the price of lying outside.
    """

    features: protocol.ToVectors
    nu: float = 0.5
    penalty: float = 1.0

    def _settings(self, seed: int) -> dict[str, Any]:
        if not (is_number(self.nu, 0, 1) and self.nu):
            raise UserError(f"nu is {self.nu!r}: give a number above 0 and at most 1")
        if not (is_number(self.penalty) and self.penalty):
            raise UserError(f"penalty is {self.penalty!r}: give a finite number above 0")
        return {"nu": float(self.nu), "penalty": float(self.penalty)}

    def _model(self, data: dict[str, np.ndarray]) -> Any:
        model = _sklearn("svm").NuSVR(nu=float(data["nu"]), C=float(data["penalty"]))
        return _on_standard_scores(model, data["scores"])


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
        convergence_warning = _sklearn("exceptions").ConvergenceWarning
        with warnings.catch_warnings():
            # A perceptron that takes all its steps is what was asked for.
            warnings.simplefilter("ignore", convergence_warning)
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


def _on_standard_scores(model: Any, scores: np.ndarray) -> Any:
    """Return the model on z-scored scores; scores that are all equal are predicted as they are."""
    if np.all(scores == scores[0]):
        return _sklearn("dummy").DummyRegressor()
    scaler = _sklearn("preprocessing").StandardScaler()
    return _sklearn("compose").TransformedTargetRegressor(model, transformer=scaler)


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
