"""Traces every path from a base station to users: direct, reflected, diffracted and scattered."""

from __future__ import annotations

import numpy as np

from lwm_fast.data.synthetic.beams import (
    Beams,
    Blockage,
    crossing,
    find_beams,
    in_front,
    point_on,
    users_in_beams,
    walls_of,
)
from lwm_fast.data.synthetic.gains import MOST_BOUNCES, Paths
from lwm_fast.data.synthetic.streets import F64, I64, Bool, Town

_CORNER_GAP = 0.05  # m between a corner and the point where its diffracted ray bends
_WIDEST_BEND = 100.0  # degrees: beyond it a corner's knife edge says nothing
_NEAREST_SCATTERER = 2.0  # m: nearer than this a scatterer is no point, its gain stops growing
_NO_BUILDING = -1


class Tracer:
    """Traces paths from one base station in one town.

    Which paths exist depends on the geometry alone, never on the carrier or on the other users.

    Args:
        town: buildings and scatterers; all roofs above the antennas.
        station: float64 [3], the base station, metres.
    """

    def __init__(self, town: Town, station: F64) -> None:
        self.town = town
        self.station = station
        self._plan = station[:2]
        self._blocked = Blockage(town.boxes)
        self._walls = walls_of(town.boxes)
        self._beams = find_beams(self._plan, self._walls, self._blocked, MOST_BOUNCES)
        self._corners, self._corner_building = self._lit_corners()
        self._scatterers = np.flatnonzero(self._sees(town.scatterers))

    def line_of_sight(self, users: F64) -> Bool:
        """Whether the base station sees each user; users [n, 3] in metres."""
        return self._sees(users)

    def __call__(self, users: F64) -> Paths:
        """All paths to users [n, 3] in metres, in no particular order of users."""
        seen = self.line_of_sight(users)
        lit, dark = np.flatnonzero(seen), np.flatnonzero(~seen)
        return Paths.concatenate(
            [
                self._direct(users, lit),
                *(paths for beams in self._beams for paths in self._reflected(users, beams)),
                self._over_roofs(users, dark),
                self._round_corners(users, dark),
                self._scattered(users),
            ]
        )

    def _direct(self, users: F64, lit: I64) -> Paths:
        plan = users[:, :2]
        station = np.broadcast_to(self._plan, (len(lit), 2))
        straight = self._ray(
            users, lit, plan[lit] - station, station - plan[lit], _distance(station, plan[lit])
        )
        bounced = self._ray(
            users, lit, plan[lit] - station, station - plan[lit], _distance(station, plan[lit]), ground=True
        )
        return Paths.concatenate([straight, bounced])

    def _reflected(self, users: F64, beams: Beams) -> list[Paths]:
        """The reflected paths of beams with the same number of bounces; after one, the ground may follow."""
        walls, beam, user = self._walls, *users_in_beams(beams, self._walls, users)
        points = [users[user, :2]]  # of the ray, from the user back to the first wall
        for bounce in reversed(range(bounces := beams.walls.shape[1])):
            wall, ahead = beams.walls[beam, bounce], points[-1]
            along, fraction = crossing(beams.images[beam, bounce], ahead, walls, wall)
            keep = (along > walls.low[wall]) & (along < walls.high[wall]) & (fraction > 0) & (fraction < 1)
            keep &= in_front(ahead, walls, wall)
            points.append(point_on(walls, wall, along))
            if bounce < bounces - 1:
                keep &= in_front(points[-1], walls, beams.walls[beam, bounce + 1])
            beam, user, points = _kept(np.flatnonzero(keep), beam, user, points)
        beam, user, points = _kept(np.flatnonzero(self._sees(points[-1])), beam, user, points)
        for leg in range(bounces):
            free = ~self._blocked(*points[leg].T, *points[leg + 1].T)
            beam, user, points = _kept(np.flatnonzero(free), beam, user, points)
        unfolded = points[0] - beams.images[beam, -1]
        return [
            self._ray(
                users,
                user,
                points[-1] - self._plan,
                points[1] - points[0],
                np.hypot(unfolded[:, 0], unfolded[:, 1]),
                reflections=(beams.walls[beam], unfolded),
                ground=ground,
            )
            for ground in ((False, True) if bounces == 1 else (False,))
        ]

    def _over_roofs(self, users: F64, dark: I64) -> Paths:
        """One path over the roofs: the equivalent knife edge of Bullington's construction (ITU-R P.526)."""
        if not len(dark):
            return _no_paths()
        boxes, user_z, station_z = self.town.boxes, users[dark, 2], self.station[2]
        step = users[dark, :2] - self._plan
        distance = np.hypot(step[:, 0], step[:, 1])
        enter, leave = np.zeros((len(dark), len(boxes))), np.ones((len(dark), len(boxes)))
        for axis in (0, 1):  # where the straight line is above each building's plan, as fractions of it
            pace = np.where(np.abs(step[:, axis]) < 1e-9, 1e-9, step[:, axis])[:, None]
            one = (boxes[:, axis] - self._plan[axis]) / pace
            two = (boxes[:, 3 + axis] - self._plan[axis]) / pace
            enter, leave = np.maximum(enter, np.minimum(one, two)), np.minimum(leave, np.maximum(one, two))
        over = enter < leave
        near = np.where(over, enter * distance[:, None], np.inf)
        far = np.where(over, (1 - leave) * distance[:, None], np.inf)
        rise = ((boxes[:, 5] - station_z) / near).max(1)  # steepest roof seen from the base station
        fall = ((boxes[:, 5] - user_z[:, None]) / far).max(1)  # and from the user
        at = (user_z - station_z + fall * distance) / (rise + fall)
        height = station_z + rise * at
        clearance = height - (station_z + (user_z - station_z) * at / distance)
        edge = clearance * np.sqrt(2 * distance / (at * (distance - at)))
        up, down = height - station_z, height - user_z
        leg_up, leg_down = np.sqrt(at * at + up * up), np.sqrt((distance - at) ** 2 + down * down)
        return _paths(
            dark,
            leg_up + leg_down,
            step,
            -step,
            zenith=(_degrees_acos(up / leg_up), _degrees_acos(down / leg_down)),
            edge=edge,
        )

    def _round_corners(self, users: F64, dark: I64) -> Paths:
        """Paths that bend round one vertical corner lit by the base station, a knife edge (ITU-R P.526)."""
        corner, plan = self._corners, users[:, :2]
        if not len(corner) or not len(dark):
            return _no_paths()
        ray = corner - self._plan  # [corners, 2]
        near = np.hypot(ray[:, 0], ray[:, 1])
        leg_x = plan[dark, 0] - corner[:, None, 0]  # [corners, users]
        leg_y = plan[dark, 1] - corner[:, None, 1]
        far = np.hypot(leg_x, leg_y)
        turn = ray[:, None, 0] * leg_y - ray[:, None, 1] * leg_x  # |ray| |leg| sin(bend)
        ahead = ray[:, None, 0] * leg_x + ray[:, None, 1] * leg_y
        body = self.town.boxes[self._corner_building]
        body_x = (body[:, 0] + body[:, 3]) / 2 - corner[:, 0]
        body_y = (body[:, 1] + body[:, 4]) / 2 - corner[:, 1]
        side = ray[:, 0] * body_y - ray[:, 1] * body_x  # the building hides what is on its own side
        row, column = np.nonzero(
            (turn * side[:, None] > 0)
            & (ahead > np.cos(np.radians(_WIDEST_BEND)) * near[:, None] * far)
            & (far > _CORNER_GAP)
        )
        user = dark[column]
        free = ~self._blocked(corner[row, 0], corner[row, 1], plan[user, 0], plan[user, 1])
        row, column, user = row[free], column[free], user[free]
        bend = np.arctan2(np.abs(turn[row, column]), ahead[row, column])
        edge = bend * np.sqrt(2 * near[row] * far[row, column] / (near[row] + far[row, column]))
        return self._ray(
            users, user, ray[row], corner[row] - plan[user], near[row] + far[row, column], edge=edge
        )

    def _scattered(self, users: F64) -> Paths:
        """Paths by one point scatterer: the bistatic radar equation."""
        index, town = self._scatterers, self.town
        row = np.repeat(np.arange(len(index)), len(users))
        user = np.tile(np.arange(len(users)), len(index))
        point = town.scatterers[index]
        free = ~self._blocked(point[row, 0], point[row, 1], users[user, 0], users[user, 1])
        row, user = row[free], user[free]
        out, back = point[row] - self.station, point[row] - users[user]
        leg_out, leg_back = _norm(out), _norm(back)
        cross_section = town.cross_section[index][row]
        return _paths(
            user,
            leg_out + leg_back,
            out,
            back,
            zenith=(_degrees_acos(out[:, 2] / leg_out), _degrees_acos(back[:, 2] / leg_back)),
            spread_db=10 * np.log10(cross_section / (4 * np.pi))
            - 20 * np.log10(leg_out * np.maximum(leg_back, _NEAREST_SCATTERER)),
            phase=town.scatter_phase[index][row],
        )

    def _lit_corners(self) -> tuple[F64, I64]:
        x0, y0, _, x1, y1, _ = self.town.boxes.T
        x = np.stack((x0 - _CORNER_GAP, x0 - _CORNER_GAP, x1 + _CORNER_GAP, x1 + _CORNER_GAP), 1).ravel()
        y = np.stack((y0 - _CORNER_GAP, y1 + _CORNER_GAP, y0 - _CORNER_GAP, y1 + _CORNER_GAP), 1).ravel()
        corner = np.stack((x, y), 1)
        lit = np.flatnonzero(self._sees(corner))
        return corner[lit], lit // 4

    def _sees(self, points: F64) -> Bool:
        """Whether nothing in the plan stands between the base station and points [n, 2 or 3]."""
        return ~self._blocked(self._plan[0], self._plan[1], points[:, 0], points[:, 1])

    def _ray(
        self,
        users: F64,
        user: I64,
        departure: F64,
        arrival: F64,
        plan_length: F64,
        reflections: tuple[I64, F64] | None = None,
        ground: bool = False,
        edge: F64 | None = None,
    ) -> Paths:
        """Paths whose plan is known: adds heights. `reflections`: walls [paths, bounces], unfolded plan [paths, 2]."""
        user_z, station_z = users[user, 2], self.station[2]
        drop = station_z + user_z if ground else station_z - user_z
        length = np.sqrt(plan_length * plan_length + drop * drop)
        buildings, cosines = None, None
        if reflections is not None:
            wall, unfolded = reflections
            buildings = self._walls.building[wall]
            cosines = np.abs(np.take_along_axis(unfolded, self._walls.axis[wall], 1)) / length[:, None]
        down = _degrees_acos(-drop / length)
        return _paths(
            user,
            length,
            departure,
            arrival,
            zenith=(down, down if ground else 180.0 - down),
            buildings=buildings,
            cosines=cosines,
            sin_ground=drop / length if ground else None,
            edge=edge,
        )


def _kept(rows: I64, beam: I64, user: I64, points: list[F64]) -> tuple[I64, I64, list[F64]]:
    return beam[rows], user[rows], [point[rows] for point in points]


def _paths(
    user: I64,
    length: F64,
    departure: F64,
    arrival: F64,
    *,
    zenith: tuple[F64, F64],
    buildings: I64 | None = None,
    cosines: F64 | None = None,
    sin_ground: F64 | None = None,
    edge: F64 | None = None,
    spread_db: F64 | None = None,
    phase: F64 | None = None,
) -> Paths:
    zero = np.zeros(len(user))
    padded = np.full((len(user), MOST_BOUNCES), _NO_BUILDING), np.zeros((len(user), MOST_BOUNCES))
    if buildings is not None and cosines is not None:
        padded[0][:, : buildings.shape[1]], padded[1][:, : cosines.shape[1]] = buildings, cosines
    return Paths(
        user=user,
        length=length,
        spread_db=-20 * np.log10(length) if spread_db is None else spread_db,
        buildings=padded[0],
        cosines=padded[1],
        sin_ground=zero if sin_ground is None else sin_ground,
        edge=zero if edge is None else edge,
        phase=zero if phase is None else phase,
        departure_azimuth=_azimuth(departure),
        departure_zenith=zenith[0],
        arrival_azimuth=_azimuth(arrival),
        arrival_zenith=zenith[1],
    )


def _no_paths() -> Paths:
    empty = np.zeros(0)
    return _paths(np.zeros(0, np.int64), empty, np.zeros((0, 2)), np.zeros((0, 2)), zenith=(empty, empty))


def _azimuth(vector: F64) -> F64:
    # Contiguous copies: the bits of arctan2 must not depend on how many users are traced at once.
    return np.asarray(np.degrees(np.arctan2(vector[:, 1].copy(), vector[:, 0].copy())))


def _degrees_acos(cosine: F64) -> F64:
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def _distance(a: F64, b: F64) -> F64:
    step = b - a
    return np.asarray(np.hypot(step[:, 0], step[:, 1]))


def _norm(vector: F64) -> F64:
    return np.asarray(np.sqrt(vector[:, 0] ** 2 + vector[:, 1] ** 2 + vector[:, 2] ** 2))
