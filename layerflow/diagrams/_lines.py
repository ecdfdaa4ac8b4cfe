"""Lines in a field on a grid: where it takes one value, and where it changes fastest.

A field has shape (up, across) and NaN where it is not known. A line has shape (points, 2), columns
across and up, in grid steps from the first cell.
"""

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.interpolate import RectBivariateSpline

_SPACING = 0.25  # between the points of a line, in grid steps: several to a cell, so that fits weigh the line evenly
_SMALLEST = 2.0  # steps across or up: the island of one odd cell is smaller, and smaller turns back are wiggles
_SMALL_SHARE = 0.25  # of the shorter side: on a coarse grid that is less
_REFINE = 4  # points per grid step for derivatives, which bend more than the field
_STEEP = 0.5  # of the largest gradient: gentler maxima are ripples on a plateau, not the edge between two
_WINDOW = 5  # cells that a cubic is fitted to for derivatives: the fewest that leave noise out
_CLEAR = 3.0  # steps from a failed cell within which the value put there still bends the line


def branches(field: np.ndarray, level: float | str) -> list[np.ndarray]:
    """The lines of `field` at a level, or "steepest", cut where they turn back across; longest first."""
    lines = _steepest_lines(field) if isinstance(level, str) else _level_lines(field, level)
    pieces = [piece for line in lines if _length(line) > 0 for piece in _cut_at_turns(_evenly(_from_the_left(line)))]
    # If every piece is small, they are all the answer there is.
    smallest = min(_SMALLEST, _SMALL_SHARE * (min(field.shape) - 1))
    kept = [piece for piece in pieces if np.ptp(piece, axis=0).max() >= smallest] or pieces
    # To a tenth of a step, so that rounding does not order the two sides of a symmetric arch.
    return sorted(kept, key=lambda piece: (-round(_length(piece), 1), piece[:, 1].mean()))


def normals(line: np.ndarray) -> np.ndarray:
    """Unit vectors to the left of each point, from the chord over a grid step on either side."""
    reach = round(1 / _SPACING)
    number = np.arange(len(line))
    chord = line[np.minimum(number + reach, len(line) - 1)] - line[np.maximum(number - reach, 0)]
    left = np.stack([-chord[:, 1], chord[:, 0]], axis=1)
    return left / np.linalg.norm(left, axis=1, keepdims=True)


def is_arch(line: np.ndarray) -> bool:
    """Whether a line rises and falls, or falls and rises: it leaves both its ends by two steps, and not by noise.

    Noise leaves them by little of the length of the line, and no parabola fits it better than a straight line.
    """
    across, up = line[:, 0] - line[:, 0].mean(), line[:, 1]
    ends = up[0], up[-1]
    away = max(up.max() - max(ends), min(ends) - up.min())
    if away < _SMALLEST or np.ptp(across) < _SPACING:
        return False
    straight, bent = (((up - np.polyval(np.polyfit(across, up, order), across)) ** 2).sum() for order in (1, 2))
    return bool(bent < straight / 2 or away >= _SMALL_SHARE * np.ptp(line, axis=0).max())


def nearest(points: np.ndarray, lines: list[np.ndarray]) -> np.ndarray:
    """The point of any of `lines` nearest to each of `points`."""
    start = np.concatenate([line[:-1] for line in lines])
    side = np.concatenate([np.diff(line, axis=0) for line in lines])
    from_start = points[:, None] - start
    along = np.clip((from_start * side).sum(-1) / (side**2).sum(-1), 0.0, 1.0)
    feet = start + along[..., None] * side
    closest = ((points[:, None] - feet) ** 2).sum(-1).argmin(axis=1)
    return feet[np.arange(len(points)), closest]


def _level_lines(field: np.ndarray, level: float) -> list[np.ndarray]:
    """Contours at one level, linear between neighbouring cells."""
    from contourpy import LineType, contour_generator

    # Corner masking loses a triangle, rather than the whole square, beside a failed cell.
    contours = contour_generator(z=np.ma.masked_invalid(field), corner_mask=True, line_type=LineType.Separate)
    return [np.asarray(line) for line in contours.lines(level)]


def _steepest_lines(field: np.ndarray) -> list[np.ndarray]:
    """Where the gradient is largest along its own direction: zero of g^T H g, with a maximum of |g|."""
    from scipy.interpolate import RectBivariateSpline

    if np.nanmax(field) == np.nanmin(field):
        return []
    spline = RectBivariateSpline(np.arange(field.shape[0]), np.arange(field.shape[1]), _smoothed(_filled(field)))
    up, across = (np.linspace(0, size - 1, _REFINE * (size - 1) + 1) for size in field.shape)
    of_order = lambda i, j: spline(up, across, dx=i, dy=j)
    gx, gy, gxx, gxy, gyy = of_order(0, 1), of_order(1, 0), of_order(0, 2), of_order(1, 1), of_order(2, 0)
    slope = np.hypot(gx, gy)
    clear = _clear_of_failed(field)
    steep = clear & (slope >= _STEEP * slope[clear].max(initial=0.0)) & (slope > 0)
    # Over |g|^2, which leaves the second derivative along the gradient: the line is where it
    # was, but the field to draw contours of bends less.
    along = np.full(slope.shape, np.nan)
    along[steep] = (gx**2 * gxx + 2 * gx * gy * gxy + gy**2 * gyy)[steep] / slope[steep] ** 2
    lines = [line / _REFINE for line in _level_lines(along, 0.0)]
    return [run for line in lines for run in _runs(line, _is_crest(spline, line))]


def _is_crest(spline: "RectBivariateSpline", line: np.ndarray) -> np.ndarray:
    """Which points of a line have a steeper slope than half a step before and after it."""
    gradient = lambda at: np.stack([spline.ev(at[:, 1], at[:, 0], dy=1), spline.ev(at[:, 1], at[:, 0], dx=1)], axis=1)
    slope = lambda at: np.linalg.norm(gradient(at), axis=1)
    direction = gradient(line) / slope(line)[:, None]
    beside = np.maximum(slope(line + 0.5 * direction), slope(line - 0.5 * direction))
    # Rounding alone makes maxima on a plane, some 1e-14 high.
    return slope(line) > (1 + 1e-9) * beside


def _smoothed(field: np.ndarray) -> np.ndarray:
    """Local cubics through the cells around each, which leave a smooth field as it is.

    Without them, second derivatives of one per cent of noise break the line to pieces.
    """
    from scipy.signal import savgol_filter

    for axis, size in enumerate(field.shape):
        if size >= _WINDOW:
            field = np.asarray(savgol_filter(field, _WINDOW, polyorder=3, axis=axis, mode="interp"))
    return field


def _filled(field: np.ndarray) -> np.ndarray:
    """`field` with failed cells taken from the nearest one."""
    from scipy.ndimage import distance_transform_edt

    failed = ~np.isfinite(field)
    if not failed.any():
        return field
    nearest_known = np.asarray(distance_transform_edt(failed, return_distances=False, return_indices=True))
    return field[tuple(nearest_known)]


def _clear_of_failed(field: np.ndarray) -> np.ndarray:
    """Which points of the refined grid lie far enough from every failed cell."""
    from scipy.ndimage import distance_transform_edt

    known = np.ones([_REFINE * (size - 1) + 1 for size in field.shape], bool)
    known[::_REFINE, ::_REFINE] = np.isfinite(field)
    return known if known.all() else np.asarray(distance_transform_edt(known)) > _CLEAR * _REFINE


def _runs(line: np.ndarray, keep: np.ndarray) -> list[np.ndarray]:
    """The stretches of at least two points for which `keep` holds."""
    return [line[run] for run in np.ma.clump_masked(np.ma.masked_where(keep, keep)) if run.stop - run.start > 1]


def _from_the_left(line: np.ndarray) -> np.ndarray:
    """A closed line begun at its leftmost point, where it turns back and is cut anyway."""
    if not np.allclose(line[0], line[-1]):
        return line
    ring = np.roll(line[:-1], -line[:-1, 0].argmin(), axis=0)
    return np.concatenate([ring, ring[:1]])


def _evenly(line: np.ndarray) -> np.ndarray:
    """The line through points evenly spaced along it, both ends among them."""
    way = _way(line)
    even = np.linspace(0.0, way[-1], max(2, round(way[-1] / _SPACING) + 1))
    return np.stack([np.interp(even, way, line[:, i]) for i in (0, 1)], axis=1)


def _cut_at_turns(line: np.ndarray) -> list[np.ndarray]:
    """Pieces that run from left to right, cut where the line turns back across.

    Neighbours share the point they are cut at, so that a picture shows no gap.
    """
    from scipy.signal import find_peaks

    turns = [find_peaks(sign * line[:, 0], prominence=_SMALLEST)[0] for sign in (1, -1)]
    ends = [0, *sorted(np.concatenate(turns)), len(line) - 1]
    pieces = [line[start : end + 1] for start, end in itertools.pairwise(ends)]
    return [piece if piece[0, 0] <= piece[-1, 0] else piece[::-1] for piece in pieces]


def _way(line: np.ndarray) -> np.ndarray:
    """Length along a line up to each of its points."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])


def _length(line: np.ndarray) -> float:
    return float(_way(line)[-1])
