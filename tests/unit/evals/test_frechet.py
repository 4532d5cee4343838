"""Fréchet distance: closed forms, invariances, and what patches are."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.linalg import sqrtm

from fewstep.evals.frechet import distance, frechet, gaussian, patch_features, patches
from fewstep.evals.judge import Judge


def test_it_is_zero_between_equal_sets():
    features = np.random.default_rng(0).standard_normal((300, 12))
    assert frechet(features, features) == pytest.approx(0, abs=1e-9)


def test_commuting_gaussians_have_the_closed_form():
    """For diagonal covariances: |m_a - m_b|² + Σ (σ_a - σ_b)²."""
    rng = np.random.default_rng(1)
    mean_a, mean_b, sd_a, sd_b = rng.standard_normal(6), rng.standard_normal(6), rng.uniform(0.1, 3, 6), rng.uniform(0.1, 3, 6)
    expected = ((mean_a - mean_b) ** 2).sum() + ((sd_a - sd_b) ** 2).sum()
    assert distance(mean_a, np.diag(sd_a**2), mean_b, np.diag(sd_b**2)) == pytest.approx(expected, rel=1e-12)


def test_two_by_two_gaussians_that_do_not_commute_have_the_closed_form():
    """For 2x2, tr √M = √(tr M + 2 √det M), and M = C_a C_b has the eigenvalues that count."""
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    cross = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    assert distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(np.trace(a) + np.trace(b) - 2 * cross, rel=1e-12)


def test_it_is_symmetric_and_unchanged_by_rotation_and_shift():
    rng = np.random.default_rng(2)
    one, two = rng.standard_normal((200, 8)) @ rng.standard_normal((8, 8)), rng.standard_normal((150, 8)) + 0.5
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    assert frechet(one, two) == pytest.approx(frechet(two, one), rel=1e-9)
    assert frechet(one @ turn + 7, two @ turn + 7) == pytest.approx(frechet(one, two), rel=1e-9)


def test_fewer_samples_than_dimensions_still_give_the_distance_of_the_means():
    rng = np.random.default_rng(3)
    features = rng.standard_normal((5, 40))
    shift = rng.standard_normal(40)
    assert frechet(features, features + shift) == pytest.approx((shift**2).sum(), rel=1e-6)


@pytest.mark.parametrize(("count", "others"), [(12, 9), (30, 30), (200, 60)])
def test_it_is_what_the_matrix_square_root_gives(count, others):
    """Equation 6 with scipy's root of C_a C_b, for samples of known Gaussians: fewer than dimensions, and more."""
    rng = np.random.default_rng(4)
    one = rng.standard_normal((count, 40)) @ rng.standard_normal((40, 40))
    two = rng.standard_normal((others, 40)) * 3 + 1
    (mean_a, a), (mean_b, b) = gaussian(one), gaussian(two)
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet(one, two) == pytest.approx(expected, rel=1e-5)
    assert frechet(one, two) == pytest.approx(distance(mean_a, a, mean_b, b), rel=1e-6)


@pytest.mark.parametrize("dimensions", [1, 4])
def test_one_sample_is_refused(dimensions):
    with pytest.raises(ValueError, match="at least two"):
        frechet(np.zeros((1, dimensions)), np.ones((3, dimensions)))


def test_patches_are_pieces_of_their_pictures_and_depend_on_seed_and_position_alone():
    rows, columns = np.mgrid[0:100, 0:150]
    picture = np.stack([rows, columns, np.full_like(rows, 9)], axis=-1).astype(np.uint8)
    found = patches(np.stack([picture, picture]), seed=4, count=3)
    assert found.shape == (6, 64, 64, 3)
    for patch in found:
        top, left = patch[0, 0, :2]
        assert np.array_equal(patch, picture[top : top + 64, left : left + 64])
    assert np.array_equal(found[:3], patches(picture[None], seed=4, count=3))
    assert not np.array_equal(found[:3], found[3:])


def test_pictures_smaller_than_a_patch_are_refused():
    with pytest.raises(ValueError, match="80x60"):
        patches(np.zeros((1, 60, 80, 3), np.uint8))


def test_patch_distance_rises_when_fine_detail_is_lost():
    def stripes(seed: int) -> np.ndarray:
        phases = np.random.default_rng(seed).integers(0, 4, (20, 1, 1))
        lines = np.broadcast_to((np.arange(96)[None, None] + phases) % 4 < 2, (20, 96, 96))
        return lines[..., None].repeat(3, axis=3).astype(np.uint8) * 255

    blurred = np.stack([np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.5))) for picture in stripes(1)])
    torch.manual_seed(0)
    judge = Judge(["a", "b"], channels=(8, 16, 16)).eval()
    reference = patch_features(judge, stripes(2))
    assert frechet(patch_features(judge, blurred), reference) > 3 * frechet(patch_features(judge, stripes(1)), reference)
