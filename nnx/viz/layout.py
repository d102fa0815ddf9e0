"""Where the boxes of a graph stand: columns from left to right, wrapped into bands like lines.

Boxes without inputs stand in the column before the first that uses them, all others behind their
inputs. Edges run between columns and never through a box: where one passes a column, a waypoint
keeps room for it. Source of the scheme: Sugiyama, Tagawa, Toda 1981; no drawing happens here.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

COLUMN_GAP = 46.0
ROW_GAP = 20.0
WAY_SIZE = 10.0
LANE = 8.0
PORT_SHARE = 0.6  # of a box's left side, over which its inputs are spread
SWEEPS = 8

Point = tuple[float, float]


class Box(NamedTuple):
    """What stands in the layout: a key, and its size."""

    key: Hashable
    width: float
    height: float


class Route(NamedTuple):
    """An edge: through ``points``, level at each, or with ``square`` as straight lines."""

    source: Hashable
    target: Hashable
    parts: tuple[tuple[bool, tuple[Point, ...]], ...]
    """Each part is (square, points)."""


class Layout(NamedTuple):
    """Left, top and width of the boxes, the edges' ways, and the size of it all.

    All boxes of a column are as wide as its widest.
    """

    places: dict[Hashable, tuple[float, float, float]]
    routes: list[Route]
    width: float
    height: float


class _Item:
    """A box or a waypoint while it is placed."""

    __slots__ = ("after", "before", "height", "key", "rank", "width", "y")

    def __init__(self, key: Hashable, width: float, height: float) -> None:
        self.key, self.width, self.height = key, width, height
        self.rank, self.y = 0, 0.0
        self.before: list[_Item] = []
        self.after: list[_Item] = []


def lay_out(
    boxes: Sequence[Box], edges: Iterable[tuple[Hashable, Hashable]], max_width: float = 1500.0
) -> Layout:
    """Return where boxes and edges go. The boxes are in an order in which each follows its inputs.

    Promises: no two boxes overlap, no edge goes through a box; two edges between the same boxes
    are one.
    """
    items = {box.key: _Item(*box) for box in boxes}
    pairs = list(dict.fromkeys(edges))
    for source, target in pairs:
        items[source].after.append(items[target])
        items[target].before.append(items[source])
    _rank(list(items.values()))
    chains = {pair: _chain(items[pair[0]], items[pair[1]]) for pair in pairs}
    columns = _columns(items.values(), chains.values())
    _order(columns)
    _align(columns)
    return _place(columns, chains, max_width)


def _rank(items: list[_Item]) -> None:
    """Give each item its column: behind its inputs; one without inputs just before its use."""
    for item in items:
        item.rank = max((x.rank + 1 for x in item.before), default=0)
    for item in items:
        if not item.before and item.after:
            item.rank = min(x.rank for x in item.after) - 1


def _chain(source: _Item, target: _Item) -> list[_Item]:
    """Return an edge as items, one a column: its ends and the waypoints between."""
    between = []
    for rank in range(source.rank + 1, target.rank):
        way = _Item(None, 0.0, WAY_SIZE)
        way.rank = rank
        between.append(way)
    chain = [source, *between, target]
    if between:
        source.after[source.after.index(target)] = between[0]
        target.before[target.before.index(source)] = between[-1]
    for i, way in enumerate(between, start=1):
        way.before, way.after = [chain[i - 1]], [chain[i + 1]]
    return chain


def _columns(items: Iterable[_Item], chains: Iterable[list[_Item]]) -> list[list[_Item]]:
    """Return the items by column, in the order in which a walk back from the results meets them."""
    everything = list(items) + [way for chain in chains for way in chain[1:-1]]
    columns: list[list[_Item]] = [[] for _ in range(1 + max(item.rank for item in everything))]
    seen: set[int] = set()
    ends = [item for item in everything if not item.after]
    stack = ends[::-1]
    while stack:
        item = stack.pop()
        if id(item) not in seen:
            seen.add(id(item))
            columns[item.rank].append(item)
            stack.extend(item.before[::-1])
    return columns


def _order(columns: list[list[_Item]]) -> None:
    """Sort each column by where its neighbours stand, there and back, keeping the fewest crossings.

    Source: Sugiyama et al. 1981, the barycentric method.
    """
    best, fewest = [column[:] for column in columns], _crossings(columns)
    for sweep in range(SWEEPS):
        if not fewest:
            break
        forward = sweep % 2 == 0
        for column in columns if forward else reversed(columns):
            where = _positions(columns, column[0].rank + (-1 if forward else 1))
            middles = {
                id(item): _middle([where[id(x)] for x in (item.before if forward else item.after)],
                                  float(i))
                for i, item in enumerate(column)
            }  # fmt: skip
            column.sort(key=lambda item, middles=middles: middles[id(item)])  # type: ignore[misc]
        crossings = _crossings(columns)
        if crossings < fewest:
            best, fewest = [column[:] for column in columns], crossings
    columns[:] = best


def _positions(columns: list[list[_Item]], rank: int) -> dict[int, int]:
    if not 0 <= rank < len(columns):
        return {}
    return {id(item): i for i, item in enumerate(columns[rank])}


def _middle(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(columns: list[list[_Item]]) -> int:
    """Return how many pairs of edges cross between neighbouring columns."""
    total = 0
    for rank, column in enumerate(columns[1:]):
        where = _positions(columns, rank)
        passed: list[int] = []
        for item in column:
            ends = [where[id(x)] for x in item.before]
            total += sum(len(passed) - bisect.bisect_right(passed, end) for end in ends)
            for end in ends:
                bisect.insort(passed, end)
    return total


def _align(columns: list[list[_Item]]) -> None:
    """Move items to the height of their neighbours, without changing the order in a column."""
    for column in columns:
        _spread(column, [0.0] * len(column))
    for sweep in range(2 * SWEEPS):
        forward = sweep % 2 == 0
        for column in columns if forward else reversed(columns):
            wanted = []
            for item in column:
                near = item.before if forward else item.after
                near = near or (item.after if forward else item.before)
                wanted.append(_middle([x.y for x in near], item.y))
            _spread(column, wanted)


def _spread(column: list[_Item], wanted: list[float]) -> None:
    """Set heights as near to the wanted as the sizes allow, by least squares.

    Source: pool-adjacent-violators on the heights less the room that the items above need.
    """
    needed = [0.0]
    for above, below in itertools.pairwise(column):
        both = above.key is not None and below.key is not None
        gap = ROW_GAP if both else ROW_GAP / 2
        needed.append(needed[-1] + (above.height + below.height) / 2 + gap)
    pools: list[tuple[float, int]] = []  # sum, count
    for want, room in zip(wanted, needed, strict=True):
        total, count = want - room, 1
        while pools and pools[-1][0] / pools[-1][1] >= total / count:
            earlier, n = pools.pop()
            total, count = total + earlier, count + n
        pools.append((total, count))
    bases = [total / count for total, count in pools for _ in range(count)]
    for item, base, room in zip(column, bases, needed, strict=True):
        item.y = base + room


# Bands


def _place(
    columns: list[list[_Item]],
    chains: dict[tuple[Hashable, Hashable], list[_Item]],
    max_width: float,
) -> Layout:
    """Cut the columns into bands of at most a width, set them below each other, lead the edges."""
    widths = [max(item.width for item in column) for column in columns]
    band_of, lefts = _bands(widths, max_width)
    crossing: dict[int, list[tuple[_Item, _Item]]] = {}
    for chain in chains.values():
        for u, v in itertools.pairwise(chain):
            if band_of[u.rank] != band_of[v.rank]:
                crossing.setdefault(band_of[u.rank], []).append((u, v))
    crossing = {band: list({(id(u), id(v)): (u, v) for u, v in found}.values())
                for band, found in crossing.items()}  # fmt: skip
    most = max((len(found) for found in crossing.values()), default=0)
    margin = LANE * (most + 2) if most else 0.0
    y, gutters = 0.0, {}
    for band in range(band_of[-1] + 1):
        inside = [item for column, b in zip(columns, band_of, strict=True) if b == band
                  for item in column]  # fmt: skip
        top = min(item.y - item.height / 2 for item in inside)
        for item in inside:
            item.y += y - top
        y = max(item.y + item.height / 2 for item in inside)
        gutters[band] = y + ROW_GAP
        y += 2 * ROW_GAP + LANE * len(crossing.get(band, ())) + ROW_GAP
    total = max(left + width for left, width in zip(lefts, widths, strict=True))
    lines = _Lines([left + margin for left in lefts], widths, band_of, gutters, crossing, total,
                   margin)  # fmt: skip
    everything = [item for column in columns for item in column]
    places = {
        item.key: (lines.lefts[item.rank], item.y - item.height / 2, widths[item.rank])
        for item in everything
        if item.key is not None
    }
    routes = [Route(u, v, lines.route(chain)) for (u, v), chain in chains.items()]
    height = max(item.y + item.height / 2 for item in everything)
    return Layout(places, routes, total + 2 * margin, height)


def _bands(widths: list[float], max_width: float) -> tuple[list[int], list[float]]:
    """Return each column's band and left side: as few bands as fit, and about equally filled."""
    whole = sum(widths) + COLUMN_GAP * (len(widths) - 1)
    n_bands = max(1, math.ceil(whole / max_width))
    limit = max(whole / n_bands, *widths)
    while True:
        bands, lefts = _filled(widths, limit)
        if bands[-1] < n_bands:
            return bands, lefts
        limit *= 1.02


def _filled(widths: list[float], limit: float) -> tuple[list[int], list[float]]:
    bands, lefts, band, x = [], [], 0, 0.0
    for width in widths:
        if x and x + width > limit:
            band, x = band + 1, 0.0
        bands.append(band)
        lefts.append(x)
        x += width + COLUMN_GAP
    return bands, lefts


class _Lines:
    """Leads edges through the columns' gaps, and from the end of a band to the next one's start."""

    def __init__(
        self,
        lefts: list[float],
        widths: list[float],
        band_of: list[int],
        gutters: dict[int, float],
        crossing: dict[int, list[tuple[_Item, _Item]]],
        total: float,
        margin: float,
    ) -> None:
        self.lefts, self.widths, self.band_of = lefts, widths, band_of
        self.gutters, self.total, self.margin = gutters, total, margin
        self.lane = {
            (id(u), id(v)): lane
            for found in crossing.values()
            for lane, (u, v) in enumerate(sorted(found, key=lambda pair: -pair[0].y))
        }

    def route(self, chain: list[_Item]) -> tuple[tuple[bool, tuple[Point, ...]], ...]:
        parts: list[tuple[bool, tuple[Point, ...]]] = []
        points: list[Point] = []
        for u, v in itertools.pairwise(chain):
            end = self.lefts[u.rank] + self.widths[u.rank], u.y
            start = self.lefts[v.rank], self._port(u, v) if v is chain[-1] else v.y
            points.append(end)
            if self.band_of[u.rank] != self.band_of[v.rank]:
                parts += [(False, tuple(points)), (True, self._around(u, v, end, start))]
                points = []
            points.append(start)
        return (*parts, (False, tuple(points)))

    def _port(self, u: _Item, v: _Item) -> float:
        """Return where on its left side a box takes an input: in the order of their heights."""
        inputs = sorted(v.before, key=lambda item: item.y)
        share = (inputs.index(u) + 1) / (len(inputs) + 1) - 0.5
        return v.y + share * PORT_SHARE * v.height

    def _around(self, u: _Item, v: _Item, end: Point, start: Point) -> tuple[Point, ...]:
        band = self.band_of[u.rank]
        lane = self.lane[id(u), id(v)]
        right = self.total + self.margin + LANE * (1 + lane)
        left = self.margin - LANE * (1 + lane)
        level = self.gutters[band] + LANE * lane
        return (end, (right, end[1]), (right, level), (left, level), (left, start[1]), start)
