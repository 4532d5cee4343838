"""Places: pure functions of a generator, in range, textured, and told apart by eye and by a very simple classifier."""

import numpy as np
import pytest

from fewstep.data.places import PLACES, ground_line, paint

SIZES = [(256, 256), (320, 192), (192, 320), (64, 64), (33, 47)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_picture_has_the_asked_shape_and_lies_in_the_unit_range(place, width, height):
    picture = paint(place, width, height, np.random.default_rng(3))
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.float32
    assert picture.flags.c_contiguous
    assert np.isfinite(picture).all()
    assert picture.min() >= 0 and picture.max() <= 1


@pytest.mark.parametrize("place", PLACES)
def test_the_same_generator_state_gives_the_same_bytes_and_another_state_another_picture(place):
    first = paint(place, 96, 96, np.random.default_rng(11))
    paint("city", 64, 96, np.random.default_rng(5))  # whatever was painted in between must leave no trace
    assert first.tobytes() == paint(place, 96, 96, np.random.default_rng(11)).tobytes()
    rng = np.random.default_rng(11)
    assert paint(place, 96, 96, rng).tobytes() == first.tobytes()
    assert np.abs(paint(place, 96, 96, rng) - first).mean() > 0.01


@pytest.mark.parametrize("place", PLACES)
def test_the_ground_has_fine_texture(place):
    """Neighbouring pixels differ below the foot of the subject by more than a smooth gradient would have them: no flat fills."""
    picture = paint(place, 256, 256, np.random.default_rng(2))
    ground = picture[int(256 * ground_line(place)) :]
    assert (np.abs(np.diff(ground, axis=1)).mean(axis=2) > 1 / 255).mean() > 0.25


def test_subjects_stand_in_the_lower_part_of_every_place():
    assert all(0.8 <= ground_line(place) <= 0.92 for place in PLACES)


def test_an_unknown_place_is_refused():
    with pytest.raises(KeyError):
        paint("attic", 64, 64, np.random.default_rng(0))
    with pytest.raises(KeyError):
        ground_line("attic")


def test_captions_are_distinct_and_in_a_fixed_order():
    assert len(set(PLACES.values())) == len(PLACES) == 12
    assert list(PLACES)[:3] == ["snow", "desert", "beach"]


def _features(place: str, seed: int) -> np.ndarray:
    """Mean colour, contrast and grain of eight horizontal bands: [72]. Blind to left and right, as the places are."""
    bands = paint(place, 64, 64, np.random.default_rng(seed)).reshape(8, 8, 64, 3)
    grain = np.abs(np.diff(bands, axis=2)).mean(axis=(1, 2))
    return np.concatenate([bands.mean(axis=(1, 2)), bands.std(axis=(1, 2)), grain]).ravel()


def test_places_are_told_apart_by_the_nearest_centroid():
    known = np.array([[_features(place, seed) for seed in range(10)] for place in PLACES])  # [place, seed, feature]
    centroids, spread = known.mean(axis=1), known.std(axis=1).mean(axis=0)
    for index, place in enumerate(PLACES):
        for seed in range(100, 110):
            distances = np.linalg.norm((centroids - _features(place, seed)) / spread, axis=1)
            assert distances.argmin() == index, (place, seed)
