"""Traces every path from a base station to users: direct, reflected, diffracted and scattered."""

from __future__ import annotations

import numpy as np

from lwm_fast.data.synthetic.beams import (
    Blockage,
    crossing,
    find_beams,
    in_front,
    point_on,
    users_in_beams,
    walls_of,
)
from lwm_fast.data.synthetic.gains import Paths
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
        self._beams = find_beams(self._plan, self._walls, self._blocked)
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
                *self._reflected(users),
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

    def _reflected(self, users: F64) -> list[Paths]:
        beam, user = users_in_beams(self._beams, self._walls, users)
        once = self._beams.second[beam] < 0
        return [
            *self._reflected_once(users, beam[once], user[once]),
            self._reflected_twice(users, beam[~once], user[~once]),
        ]

    def _reflected_once(self, users: F64, beam: I64, user: I64) -> list[Paths]:
        walls, beams, plan = self._walls, self._beams, users[:, :2]
        wall = beams.first[beam]
        along, _ = crossing(beams.image[beam], plan[user], walls, wall)
        on_wall = (along > walls.low[wall]) & (along < walls.high[wall])
        beam, user, wall, along = beam[on_wall], user[on_wall], wall[on_wall], along[on_wall]
        hit = point_on(walls, wall, along)
        free = np.flatnonzero(~self._blocked(hit[:, 0], hit[:, 1], plan[user, 0], plan[user, 1]))
        free = free[self._sees(hit[free])]
        beam, user, wall, hit = beam[free], user[free], wall[free], hit[free]
        unfolded = plan[user] - beams.image[beam]
        return [
            self._ray(
                users,
                user,
                hit - self._plan,
                hit - plan[user],
                np.hypot(unfolded[:, 0], unfolded[:, 1]),
                bounces=((wall, unfolded),),
                ground=ground,
            )
            for ground in (False, True)
        ]

    def _reflected_twice(self, users: F64, beam: I64, user: I64) -> Paths:
        walls, beams, plan = self._walls, self._beams, users[:, :2]
        first, second = beams.first[beam], beams.second[beam]
        along, _ = crossing(beams.image[beam], plan[user], walls, second)
        late = point_on(walls, second, along)
        back, fraction = crossing(beams.image_first[beam], late, walls, first)
        early = point_on(walls, first, back)
        keep = (along > walls.low[second]) & (along < walls.high[second])
        keep &= (back > walls.low[first]) & (back < walls.high[first]) & (fraction > 0) & (fraction < 1)
        keep &= in_front(late, walls, first) & in_front(early, walls, second)
        free = np.flatnonzero(keep)
        free = free[~self._blocked(late[free, 0], late[free, 1], plan[user[free], 0], plan[user[free], 1])]
        free = free[self._sees(early[free])]
        free = free[~self._blocked(early[free, 0], early[free, 1], late[free, 0], late[free, 1])]
        user, first, second, early, late = user[free], first[free], second[free], early[free], late[free]
        unfolded = plan[user] - beams.image[beam[free]]
        return self._ray(
            users,
            user,
            early - self._plan,
            late - plan[user],
            np.hypot(unfolded[:, 0], unfolded[:, 1]),
            bounces=((first, unfolded), (second, unfolded)),
        )

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
        bounces: tuple[tuple[I64, F64], ...] = (),
        ground: bool = False,
        edge: F64 | None = None,
    ) -> Paths:
        """Paths whose plan is known: adds heights. `bounces` holds walls and unfolded vectors in the plan."""
        walls = self._walls
        user_z, station_z = users[user, 2], self.station[2]
        drop = station_z + user_z if ground else station_z - user_z
        length = np.sqrt(plan_length * plan_length + drop * drop)
        building, cosine = [], []
        for wall, unfolded in bounces:
            building.append(walls.building[wall])
            cosine.append(np.abs(unfolded[np.arange(len(wall)), walls.axis[wall]]) / length)
        down = _degrees_acos(-drop / length)
        return _paths(
            user,
            length,
            departure,
            arrival,
            zenith=(down, down if ground else 180.0 - down),
            buildings=building,
            cosines=cosine,
            sin_ground=drop / length if ground else None,
            edge=edge,
        )


def _paths(
    user: I64,
    length: F64,
    departure: F64,
    arrival: F64,
    *,
    zenith: tuple[F64, F64],
    buildings: list[I64] | tuple[()] = (),
    cosines: list[F64] | tuple[()] = (),
    sin_ground: F64 | None = None,
    edge: F64 | None = None,
    spread_db: F64 | None = None,
    phase: F64 | None = None,
) -> Paths:
    none, zero = np.full(len(user), _NO_BUILDING), np.zeros(len(user))
    return Paths(
        user=user,
        length=length,
        spread_db=-20 * np.log10(length) if spread_db is None else spread_db,
        first=buildings[0] if len(buildings) > 0 else none,
        second=buildings[1] if len(buildings) > 1 else none,
        cos_first=cosines[0] if len(cosines) > 0 else zero,
        cos_second=cosines[1] if len(cosines) > 1 else zero,
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
