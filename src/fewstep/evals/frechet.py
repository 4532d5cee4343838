"""Fréchet distance between Gaussians fitted to features (Heusel et al., arXiv 1706.08500, equation 6), of whole pictures and of patches."""

from __future__ import annotations

import numpy as np

from fewstep.evals.judge import INPUT, Judge, look


def distance(mean_a: np.ndarray, covariance_a: np.ndarray, mean_b: np.ndarray, covariance_b: np.ndarray) -> float:
    """|m_a - m_b|² + tr(C_a + C_b - 2·(C_a^½ C_b C_a^½)^½), in float64. Means [D], covariances [D, D]; in squared units of the features.

    C_a^½ C_b C_a^½ is symmetric and has the eigenvalues of C_a C_b, so two symmetric eigen-decompositions do, also for singular ones.
    """
    values, vectors = np.linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = root @ covariance_b @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((product + product.T) / 2), 0, None)).sum()
    apart = float(((mean_a - mean_b) ** 2).sum())
    return max(apart + float(np.trace(covariance_a) + np.trace(covariance_b) - 2 * cross), 0.0)


def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D] of features [N, D]. Raises ValueError for fewer than two."""
    if len(features) < 2:
        raise ValueError(f"{len(features)} sample(s): a Fréchet distance needs at least two pictures")
    features = np.asarray(features, dtype=np.float64)
    return features.mean(axis=0), np.cov(features, rowvar=False).reshape(features.shape[1], features.shape[1])


def frechet(features: np.ndarray, reference: np.ndarray) -> float:
    """Fréchet distance between two sets of features [N, D] and [M, D]. It falls as N grows: compare equal numbers only.

    Of fewer samples than dimensions no covariance is made: for centred X, Y the trace of (C_x C_y)^½ is the sum of the singular values of
    X Yᵀ / √((N-1)(M-1)), an [N, M] matrix. Raises ValueError for fewer than two.
    """
    if max(len(features), len(reference)) >= features.shape[1] or min(len(features), len(reference)) < 2:
        return distance(*gaussian(features), *gaussian(reference))
    ours, theirs = (np.asarray(of, dtype=np.float64) for of in (features, reference))
    means = ours.mean(axis=0), theirs.mean(axis=0)
    x, y = ((of - mean) / np.sqrt(len(of) - 1) for of, mean in zip((ours, theirs), means, strict=True))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(float(((means[0] - means[1]) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross), 0.0)


def patches(pictures: np.ndarray, seed: int = 0, count: int = 4, side: int = INPUT) -> np.ndarray:
    """``count`` crops at native size from each of uint8 [N, H, W, 3]: [N * count, side, side, 3], placed by (seed, position).

    Raises ValueError if a picture is smaller than a crop.
    """
    height, width = pictures.shape[1:3]
    if min(height, width) < side:
        raise ValueError(f"pictures of {width}x{height} pixels are too small for {side}-pixel patches")
    crops = []
    for position, picture in enumerate(pictures):
        rng = np.random.default_rng((seed, position))
        for top, left in zip(rng.integers(height - side + 1, size=count), rng.integers(width - side + 1, size=count), strict=True):
            crops.append(picture[top : top + side, left : left + side])
    return np.stack(crops) if crops else np.zeros((0, side, side, 3), np.uint8)


def patch_features(judge: Judge, pictures: np.ndarray, seed: int = 0, count: int = 4) -> np.ndarray:
    """The judge's features of native-size crops: float32 [N * count, D]. Unlike those of whole pictures, they see every pixel as it is."""
    return look(judge, patches(pictures, seed, count)).numpy()
