"""The corruptions against their published definitions, written out for one image at a time."""

import colorsys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage, stats

from shrinkstats.adapters.robustness import (
    CORRUPTIONS,
    GROUPS,
    HOLDOUT,
    blur,
    corrupt,
    corruptions,
    digital,
    filters,
    noise,
    spatter,
    weather,
)

pytest.importorskip("PIL", reason="needs Pillow")

NAMES = (*CORRUPTIONS, *HOLDOUT)
SEVERITIES = (1, 2, 3, 4, 5)
FROST = [np.random.default_rng(k).integers(0, 256, (160 + k, 171, 3), dtype=np.uint8) for k in range(3)]


def pictures(n, seed=0):
    """Images with smooth parts and edges, saturated parts and grey ones, of shape (n, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(rng.normal(size=(n, 32, 32, 3)), (0, 3, 3, 0)) * 900 + 110
    x[:, 5:12, 8:20] += 120
    x[:, 20:28, 4:9] = rng.integers(0, 256, (n, 1, 1, 1))
    return np.clip(x, 0, 255).astype(np.uint8)


def generators(n):
    return [np.random.default_rng(100 + k) for k in range(n)]


def strengths(name):
    return corruptions.ALL[name].strengths


def bits(x):
    return np.floor(255 * np.clip(x, 0, 1) + 1e-6)


# What holds for all of them


# Strengths in make_cifar_c.py: of zoom blur the ends of the ranges, of glass blur without the reach, which is always 1.
PUBLISHED = {
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot_noise": [500, 250, 100, 75, 50],
    "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "glass_blur": [(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)],
    "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom_blur": [1.06, 1.11, 1.16, 1.21, 1.26],
    "frost": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    "fog": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "elastic_transform": [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
    "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
    "jpeg_compression": [80, 65, 58, 50, 40],
    "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2],
    "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],
    "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    "snow": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
    "spatter": [
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ],
}


def test_strengths_are_the_published_ones():
    assert {name: list(strengths(name)) for name in NAMES} == PUBLISHED


def test_names_are_the_benchmark_s():
    assert len(CORRUPTIONS) == 15
    assert list(GROUPS) == ["noise", "blur", "weather", "digital"]
    assert CORRUPTIONS[0] == "gaussian_noise"
    assert CORRUPTIONS[7:10] == ("snow", "frost", "fog")
    assert HOLDOUT == ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_the_others(name):
    x = pictures(5)
    severity = 1 + len(name) % 5
    whole = corrupt(x, name, severity, seed=3, frost=FROST)
    assert whole.dtype == np.uint8
    assert whole.shape == x.shape
    some = np.array([3, 0])
    assert np.array_equal(corrupt(x[some], name, severity, seed=3, ids=some, frost=FROST), whole[some])
    first = corrupt(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), name, severity, seed=3, frost=FROST)
    assert np.array_equal(first, whole.transpose(0, 3, 1, 2))
    assert corrupt(x[:0], name, severity, frost=FROST).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("name", [*GROUPS["noise"], "glass_blur", "motion_blur", "snow", "fog", "elastic_transform"])
def test_random_numbers_differ_by_image_seed_and_severity(name):
    x = np.repeat(pictures(1), 2, axis=0)
    one, two = corrupt(x, name, 2)
    assert not np.array_equal(one, two)
    assert not np.array_equal(corrupt(x[:1], name, 2, seed=1)[0], one)
    assert not np.array_equal(corrupt(x[:1], name, 3)[0], one)


def test_chunks_do_not_show(monkeypatch):
    x = pictures(5)
    whole = corrupt(x, "fog", 4)
    monkeypatch.setattr(corruptions, "CHUNK", 2)
    assert np.array_equal(corrupt(x, "fog", 4), whole)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", [*GROUPS["blur"], "gaussian_blur", "contrast", "elastic_transform", "pixelate"])
def test_one_colour_stays(name, severity):
    x = np.broadcast_to(np.array([[0, 0, 0], [255, 255, 255], [17, 128, 201]], np.uint8)[:, None, None], (3, 32, 32, 3))
    assert np.array_equal(corrupt(x, name, severity), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 32, 32, 3))}, "float64 of shape"),
        ({"images": np.zeros((32, 32, 3), np.uint8)}, r"\(32, 32, 3\)"),
        ({"images": np.zeros((2, 3, 28, 28), np.uint8)}, r"\(2, 3, 28, 28\)"),
        ({"name": "rain"}, "unknown corruption 'rain'; there is gaussian_noise"),
        ({"severity": 6}, "severity must be"),
        ({"severity": True}, "severity must be"),
        ({"ids": [1]}, "one id for each of the 2 images, got 1"),
        ({"name": "frost"}, "pass frost="),
        ({"name": "frost", "frost": [np.zeros((40, 400, 3), np.uint8)]}, r"\(40, 400, 3\)"),
        ({"name": "frost", "frost": [np.zeros((400, 400, 3))]}, "float64"),
    ],
)
def test_arguments_that_will_not_do(change, message):
    arguments = {"images": np.zeros((2, 32, 32, 3), np.uint8), "name": "fog", "severity": 1} | change
    with pytest.raises(ValueError, match=message):
        corrupt(**arguments)


# Noise: moments and shares, within five standard errors

GREY = np.full((40, 32, 32, 3), 128, np.uint8)
VALUES = GREY.size


def check_mean_and_variance(values, mean, variance, fourth):
    values = values.astype(float).ravel()
    assert values.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / VALUES))
    deviation = 5 * np.sqrt((fourth - variance**2) / VALUES)
    assert ((values - mean) ** 2).mean() == pytest.approx(variance, abs=deviation)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["gaussian_noise", "speckle_noise"])
def test_normal_noise(name, severity):
    """Cutting to whole numbers lowers the mean by 1/2 and adds the variance of a uniform number, 1/12."""
    std = strengths(name)[severity - 1] * (255 if name == "gaussian_noise" else 128)
    variance = std**2 + 1 / 12
    check_mean_and_variance(corrupt(GREY, name, severity), 127.5, variance, 3 * variance**2)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise(severity):
    photons = strengths("shot_noise")[severity - 1]
    counts = np.arange(2 * photons)
    p = stats.poisson.pmf(counts, photons * 128 / 255)
    values = np.floor(255 * np.minimum(counts / photons, 1) + 1e-6)
    mean = p @ values
    moments = [p @ (values - mean) ** power for power in (2, 4)]
    check_mean_and_variance(corrupt(GREY, "shot_noise", severity), mean, *moments)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise(severity):
    amount = strengths("impulse_noise")[severity - 1]
    y = corrupt(GREY, "impulse_noise", severity)
    for value in (0, 255):
        share = (y == value).mean()
        assert share == pytest.approx(amount / 2, abs=5 * np.sqrt(amount / 2 / VALUES))
    assert set(np.unique(y)) == {0, 128, 255}


def test_speckles_leave_black_alone():
    assert not corrupt(np.zeros_like(GREY[:2]), "speckle_noise", 5).any()


# Blurs


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur(severity):
    radius, sigma = strengths("defocus_blur")[severity - 1]
    kernel = np.zeros((17, 17))
    for i in range(17):
        for j in range(17):
            kernel[i, j] = (i - 8) ** 2 + (j - 8) ** 2 <= radius**2
    kernel /= kernel.sum()
    taps = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        kernel = ndimage.convolve1d(kernel, taps / taps.sum(), axis=axis)
    x = pictures(2)
    expected = ndimage.correlate(x / 255, kernel[None, :, :, None], mode="mirror")
    assert np.array_equal(corrupt(x, "defocus_blur", severity), bits(expected))


def test_the_widest_defocus_is_a_box():
    x = pictures(1)
    box = ndimage.uniform_filter(x[0] / 255, (3, 3, 0), mode="mirror")
    assert np.array_equal(corrupt(x, "defocus_blur", 5)[0], bits(box))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur(severity):
    sigma = strengths("gaussian_blur")[severity - 1]
    reach = int(4 * sigma + 0.5)
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    x = pictures(1)
    y = x[0] / 255
    for axis in (0, 1):
        padded = np.pad(y, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        y = np.apply_along_axis(np.convolve, axis, padded, taps / taps.sum(), mode="valid")
    assert np.array_equal(corrupt(x, "gaussian_blur", severity)[0], bits(y))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_is_the_published_walk(severity):
    """The walk as published, pixel by pixel, with NumPy's views that make its swap a copy."""
    sigma, rounds = strengths("glass_blur")[severity - 1]
    x = pictures(1) / 255
    y = bits(filters.gaussian(x, sigma))[0]
    steps = generators(1)[0].integers(-1, 1, (rounds, 2, 30, 30))
    for k in range(rounds):
        for h in range(31, 1, -1):
            for w in range(31, 1, -1):
                down, right = steps[k, :, h - 2, w - 2]
                y[h, w], y[h + down, w + right] = y[h + down, w + right], y[h, w]
    expected = filters.gaussian(y[None] / 255, sigma)
    strength = strengths("glass_blur")[severity - 1]
    np.testing.assert_allclose(blur.glass_blur(x, strength, generators(1)), expected, atol=1e-12)


def naive_motion_blur(x, radius, sigma, angle):
    """ImageMagick's MotionBlurImage on values from 0 to 255."""
    width = 2 * radius + 1
    kernel = [np.exp(-(k**2) / (2 * sigma**2)) for k in range(width)]
    along, down = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    y = np.zeros(x.shape)
    for row in range(32):
        for column in range(32):
            for k in range(width):
                r = min(max(row + int(np.ceil(k * down - 0.5)), 0), 31)
                c = min(max(column + int(np.ceil(k * along - 0.5)), 0), 31)
                y[row, column] += kernel[k] / sum(kernel) * x[r, c]
    return np.rint(y)


@pytest.mark.parametrize(("strength", "angle"), [((6, 1), -45.0), ((8, 2), 10.0), ((9, 2.5), 44.0), ((6, 2), -100.0)])
def test_motion_blur(strength, angle):
    x = pictures(2)
    y = filters.motion_blur(x / 255, *strength, np.array([angle, 0.0]))
    assert np.array_equal(np.rint(255 * y[0]), naive_motion_blur(x[0], *strength, angle))
    assert np.array_equal(np.rint(255 * y[1]), naive_motion_blur(x[1], *strength, 0.0))


def test_motions_go_up_to_45_degrees():
    """The blur of a dot shows its angle; between -45 and 45 degrees it never leaves a cone."""
    x = np.zeros((300, 32, 32, 3))
    x[:, 16, 16] = 1
    rows, columns = np.nonzero(blur.motion_blur(x, (6, 2), generators(300))[..., 0].sum(axis=0))
    assert (np.abs(rows - 16) <= 16 - columns).all()  # the light moves to the left of the dot
    assert rows.min() < 13 < 19 < rows.max()


def naive_zoom(x, factor):
    """The published clipped_zoom."""
    size = int(np.ceil(32 / factor))
    top = (32 - size) // 2
    large = ndimage.zoom(x[top : top + size, top : top + size], (factor, factor) + (1,) * (x.ndim - 2), order=1)
    top = (len(large) - 32) // 2
    return large[top : top + 32, top : top + 32]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur(severity):
    x = pictures(1)
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    total = x[0] / 255 + sum(naive_zoom(x[0] / 255, factor) for factor in factors)
    assert np.array_equal(corrupt(x, "zoom_blur", severity)[0], bits(total / (len(factors) + 1)))


@pytest.mark.parametrize("factor", [1, 1.01, 1.25, 1.75, 2.25])
def test_magnification(factor):
    x = pictures(1)[0, :, :, 0] / 255
    matrix = filters.magnification(factor, 32)
    np.testing.assert_allclose(matrix @ x @ matrix.T, naive_zoom(x, factor), atol=1e-12)


# Weather


def naive_plasma(decay, rng):
    """The published diamond-square program for one map."""
    heights = np.empty((32, 32))
    heights[0, 0] = 0
    step, wibble = 32, 100
    while step >= 2:
        half = step // 2
        for diamond in (False, True):
            for row, column in [(half, half)] if not diamond else [(0, half), (half, 0)]:
                rows, columns = np.arange(row, 32, step), np.arange(column, 32, step)
                jitter = wibble * rng.uniform(-wibble, wibble, (len(rows), len(columns)))
                for i, r in enumerate(rows):
                    for j, c in enumerate(columns):
                        around = [(-1, 0), (1, 0), (0, -1), (0, 1)] if diamond else [(-1, -1), (-1, 1), (1, -1), (1, 1)]
                        four = [heights[(r + half * a) % 32, (c + half * b) % 32] for a, b in around]
                        heights[r, c] = sum(four) / 4 + jitter[i, j]
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize("severity", [1, 5])
def test_fog(severity):
    thickness, decay = strengths("fog")[severity - 1]
    x = pictures(3) / 255 * np.array([1, 0.5, 0.8])[:, None, None, None]
    y = weather.fog(x, (thickness, decay), generators(3))
    for k, rng in enumerate(generators(3)):
        light = x[k].max()
        expected = (x[k] + thickness * naive_plasma(decay, rng)[..., None]) * light / (light + thickness)
        np.testing.assert_allclose(y[k], expected, atol=1e-12)


@pytest.mark.parametrize("severity", [2, 3, 5])
def test_snow(severity):
    mean, std, zoom, threshold, radius, sigma, colour = strengths("snow")[severity - 1]
    x = pictures(1) / 255
    y = weather.snow(x, strengths("snow")[severity - 1], generators(1))[0]
    (rng,) = generators(1)
    flakes = naive_zoom(rng.normal(mean, std, (32, 32)), zoom)
    flakes = np.floor(255 * np.where(flakes < threshold, 0, np.clip(flakes, 0, 1)))
    flakes = naive_motion_blur(flakes, radius, sigma, rng.uniform(-135, -45))[..., None] / 255
    grey = 0.299 * x[0, :, :, :1] + 0.587 * x[0, :, :, 1:2] + 0.114 * x[0, :, :, 2:]
    expected = colour * x[0] + (1 - colour) * np.maximum(x[0], 1.5 * grey + 0.5) + flakes + np.rot90(flakes, 2)
    np.testing.assert_allclose(y, expected, atol=1e-12)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_lays_a_piece_of_a_picture_over_the_image(severity):
    image, ice = strengths("frost")[severity - 1]
    x = pictures(4)
    y = corrupt(x, "frost", severity, frost=FROST).astype(float)
    pieces = [
        small[top : top + 32, left : left + 32].astype(float)
        for small in (picture[2::5, 2::5] for picture in FROST)
        for top in range(small.shape[0] - 31)
        for left in range(small.shape[1] - 31)
    ]
    for before, after in zip(x, y, strict=True):
        assert min(np.abs(np.clip(image * before + ice * piece, 0, 255) - after).max() for piece in pieces) <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness(severity):
    more = strengths("brightness")[severity - 1]
    x = pictures(1)
    x[0, 0, 0] = 0

    def brighten(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))

    expected = np.apply_along_axis(brighten, 2, x[0] / 255)
    np.testing.assert_allclose(weather.brightness(x / 255, more, [])[0], expected, atol=1e-12)


# Processing


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast(severity):
    factor = strengths("contrast")[severity - 1]
    x = pictures(2)
    for before, after in zip(x / 255, corrupt(x, "contrast", severity), strict=True):
        for c in range(3):
            mean = before[:, :, c].mean()
            assert np.array_equal(after[:, :, c], bits((before[:, :, c] - mean) * factor + mean))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturate(severity):
    factor, more = strengths("saturate")[severity - 1]
    x = pictures(1)
    x[0, 0] = 0

    def change(pixel):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        return colorsys.hsv_to_rgb(hue, min(max(saturation * factor + more, 0), 1), value)

    expected = np.apply_along_axis(change, 2, x[0] / 255)
    np.testing.assert_allclose(digital.saturate(x / 255, (factor, more), [])[0], expected, atol=1e-12)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform(severity):
    strength = strengths("elastic_transform")[severity - 1]
    x = pictures(2) / 255
    y = digital.elastic_transform(x, strength, generators(2))
    amplitude, smoothness, affine = (32 * part for part in strength)
    for k, rng in enumerate(generators(2)):
        corners = np.array([[26, 26], [26, 6], [6, 6]])
        moved = corners + rng.uniform(-affine, affine, (3, 2))
        # The affine map a + L (x, y) that takes the corners to where they are moved, and back.
        linear = np.linalg.solve(corners[1:] - corners[0], moved[1:] - moved[0]).T
        columns, rows = np.meshgrid(np.arange(32), np.arange(32))
        places = np.stack([columns, rows], axis=-1) - moved[0]
        source = places @ np.linalg.inv(linear).T + corners[0]
        dx, dy = (
            amplitude * ndimage.gaussian_filter(rng.uniform(-1, 1, (32, 32)), smoothness, mode="reflect", truncate=3)
            for _ in range(2)
        )
        for c in range(3):
            warped = ndimage.map_coordinates(x[k, :, :, c], [source[..., 1], source[..., 0]], order=1, mode="mirror")
            expected = ndimage.map_coordinates(warped, [rows + dy, columns + dx], order=1, mode="reflect")
            np.testing.assert_allclose(y[k, :, :, c], expected, atol=1e-9)


@given(
    st.integers(2, 40), st.lists(st.floats(-100, 100), min_size=1, max_size=20), st.sampled_from(["mirror", "reflect"])
)
def test_resampling_beyond_the_border(size, places, border):
    x = np.random.default_rng(0).random((1, size, size, 1))
    rows = np.array(places)[None, :, None]
    columns = rows[:, ::-1]
    y = filters.resample(x, rows, columns, border)
    at = [rows[0, :, 0], columns[0, :, 0]]
    np.testing.assert_allclose(
        y[0, :, 0, 0], ndimage.map_coordinates(x[0, :, :, 0], at, order=1, mode=border), atol=1e-9
    )


def naive_box(x, size):
    """Box resampling of rows with whole-numbered results: pixels whose centres lie within half a step."""
    scale = len(x) / size
    reach = max(scale, 1) / 2
    rows = []
    for k in range(size):
        centre = (k + 0.5) * scale
        inside = [i for i in range(len(x)) if -reach < i + 0.5 - centre <= reach]
        rows.append(np.floor(x[inside].mean(axis=0) + 0.5))
    return np.array(rows)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate(severity):
    size = (30, 28, 27, 24, 20)[severity - 1]
    x = pictures(1)
    y = x[0].astype(float)
    for length in (size, 32):
        y = naive_box(naive_box(y.transpose(1, 0, 2), length).transpose(1, 0, 2), length)
    assert np.abs(corrupt(x, "pixelate", severity)[0] - y).max() <= 1


def test_jpeg_compression():
    x = pictures(6)
    errors = [np.square(corrupt(x, "jpeg_compression", s).astype(float) - x).mean() for s in SEVERITIES]
    assert all(a < b for a, b in pairwise(errors))
    assert errors[0] > 0
    grey = np.full((1, 32, 32, 3), 128, np.uint8)
    assert np.array_equal(corrupt(grey, "jpeg_compression", 5), grey)


# Spatter


@pytest.mark.parametrize("severity", [4, 5])
def test_mud(severity):
    mean, std, sigma, threshold, amount, _ = strengths("spatter")[severity - 1]
    x = pictures(3) / 255
    y = spatter.spatter(x, strengths("spatter")[severity - 1], generators(3))
    for k, rng in enumerate(generators(3)):
        liquid = ndimage.gaussian_filter(rng.normal(mean, std, (32, 32)), sigma, mode="nearest")
        cover = ndimage.gaussian_filter((liquid > threshold).astype(float), amount, mode="nearest")[..., None]
        cover[cover < 0.8] = 0
        np.testing.assert_allclose(y[k], x[k] * (1 - cover) + cover * np.array([63, 42, 20]) / 255, atol=1e-12)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_brightens_drops_and_nothing_else(severity):
    mean, std, sigma, threshold, amount, _ = strengths("spatter")[severity - 1]
    x = pictures(20) / 255
    light = spatter.spatter(x, strengths("spatter")[severity - 1], generators(20)) - x
    for k, rng in enumerate(generators(20)):
        liquid = ndimage.gaussian_filter(rng.normal(mean, std, (32, 32)), sigma, mode="nearest")
        assert not light[k][liquid < threshold].any()
        np.testing.assert_allclose(light[k].max(axis=(0, 1)), amount * np.array([175, 238, 238]) / 255)
    assert light.min() >= 0


def naive_reflection(drops, edges):
    """The published steps on one image, given its edges."""
    rows, columns = np.nonzero(edges)
    distance = np.array([[min(np.hypot(r - rows, c - columns)) for c in range(32)] for r in range(32)])
    box, ker = np.full((3, 3), 1 / 9), np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])
    distance = np.floor(ndimage.correlate(np.minimum(distance, 20), box, mode="mirror") + 1e-6)
    above = distance > distance.min()
    counts = np.array([(above & (distance <= value)).sum() for value in distance.ravel()])
    distance = np.rint(counts * (255 / above.sum())).reshape(32, 32)
    distance = np.clip(ndimage.correlate(distance, ker, mode="mirror"), 0, 255)
    return drops * np.rint(ndimage.correlate(distance, box, mode="mirror"))


def test_reflections():
    drops = np.zeros((3, 32, 32))
    drops[0, 3:9, 4:12] = 200
    drops[1, 5, 5] = 255
    drops[2, 20:22, 20:22] = 180  # four pixels alike have no edges, since no gradient is the steepest: distances are 20
    edges = spatter._canny(drops, 50, 150)
    assert not edges[2].any()
    expected = [naive_reflection(drops[k], edges[k]) for k in (0, 1)]
    np.testing.assert_allclose(spatter._reflection(drops), [*expected, 20 * drops[2]], atol=1e-9)
    np.testing.assert_allclose(spatter._reflection(drops[2:]), 20 * drops[2:], atol=1e-9)


def test_no_drops_no_light():
    x = pictures(2) / 255
    dry = (0.1, 0.01, 0.7, 0.7, 0.5, 0)
    assert np.array_equal(spatter.spatter(x, dry, generators(2)), x)


def test_edges_of_a_square():
    """A bright square has one closed line of edges, one pixel wide, on its rim; faint ones have none."""
    x = np.zeros((3, 32, 32))
    x[0, 10:20, 8:24] = 200
    x[1, 10:20, 8:24] = 12
    edges = spatter._canny(x, 50, 150)
    rim = np.zeros((32, 32), bool)
    rim[9:21, 7:25] = True
    rim[11:19, 9:23] = False
    assert edges[0].any()
    assert not edges[0][~rim].any()
    assert not edges[1:].any()
    assert not ndimage.binary_fill_holes(edges[0])[0, 0]
    assert ndimage.binary_fill_holes(edges[0])[15, 15]


def test_weak_edges_count_where_strong_ones_begin():
    x = np.zeros((2, 32, 32))
    x[0, :, 16:] = np.linspace(60, 14, 32)[:, None]  # gradients of 4 times as much: from 240 to 56
    x[1, :, 16:] = np.linspace(37, 14, 32)[:, None]  # nowhere above 150
    edges = spatter._canny(x, 50, 150)
    assert edges[0].any(axis=1).all()
    assert not edges[1].any()


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_equalized_histograms(seed, levels):
    x = np.random.default_rng(seed).integers(0, levels, (2, 8, 8)).astype(np.uint8) * 9
    for image, result in zip(x, spatter._equalize(x), strict=True):
        if image.min() == image.max():
            assert np.array_equal(result, image)
            continue
        above = (image > image.min()).sum()
        expected = [np.rint(255 * ((image > image.min()) & (image <= v)).sum() / above) for v in image.ravel()]
        assert np.abs(result.ravel() - expected).max() <= 1
        assert (result.min(), result.max()) == (0, 255)


def test_noise_generators_are_used_once_each():
    """Two images with generators of the same seed get the same noise: no generator serves two images."""
    x = np.repeat(pictures(1) / 255, 2, axis=0)
    for function in (noise.gaussian_noise, noise.shot_noise, noise.impulse_noise):
        one, two = function(x, 0.5, [np.random.default_rng(0), np.random.default_rng(0)])
        assert np.array_equal(one, two)
