"""Tables about generated streets for `bench.report`, made from bench/results/streets.csv alone."""

from __future__ import annotations

from collections.abc import Callable

from bench.markdown import Found, markdown, rows

_COLUMNS = (  # quantity, header, factor
    ("power_db", "power, dB (5/50/95%)", 1.0),
    ("excess_loss_db", "below free space, dB", 1.0),
    ("delay_spread_s", "delay spread, ns", 1e9),
    ("departure_spread_deg", "azimuth spread of departure, degrees", 1.0),
    ("arrival_spread_deg", "of arrival", 1.0),
    ("strongest_share", "strongest path's share", 1.0),
)


def streets_los() -> str:
    """Users in line of sight."""
    return _table("LoS")


def streets_nlos() -> str:
    """Users out of sight."""
    return _table("NLoS")


def _table(group: str) -> str:
    found = rows("streets")
    lines = []
    for source in dict.fromkeys(row["source"] for row in found):
        mine = {row["quantity"]: row for row in found if (row["source"], row["group"]) == (source, group)}
        everyone = sum(
            int(row["users"]) for row in found if (row["source"], row["quantity"]) == (source, "mean_paths")
        )
        share = f"{int(mine['mean_paths']['users']) / everyone:.0%}" if everyone else "-"
        paths = f"{mine['paths']['middle']} clusters"
        if "mean_paths" in mine:
            paths = f"{float(mine['mean_paths']['middle']):.1f} ({_cell(mine, 'paths', 1.0)})"
        lines.append([source, share, paths, *(_cell(mine, name, by) for name, _, by in _COLUMNS)])
    header = ["10/50/90% of users", f"{group} users", "paths", *(header for _, header, _ in _COLUMNS)]
    return markdown(header, lines)


def _cell(found: dict[str, Found], name: str, factor: float) -> str:
    if name not in found:
        return "-"
    values = [float(found[name][column]) * factor for column in ("low", "middle", "high")]
    digits = 2 if name == "strongest_share" else 1 if name in ("power_db", "excess_loss_db") else 0
    return " / ".join(f"{value:.{digits}f}" for value in values)


TABLES: dict[str, Callable[[], str]] = {table.__name__: table for table in (streets_los, streets_nlos)}
