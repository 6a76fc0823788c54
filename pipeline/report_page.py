"""A report as one page that needs no other file: styles, curves and script are in it, and every text is escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .report_content import Reported, configuration, divided, provenance
from .reporters import curve_svg
from .reporters.duration import lasting
from .trace import render

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 75rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { white-space: nowrap; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
th button { all: unset; cursor: pointer; font-weight: bold; } th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " ↑"; } th[aria-sort=descending] button::after { content: " ↓"; }
tbody tr:hover { background: var(--soft); }
.curves { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
.curves figure { margin: 0; } svg { width: 100%; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem; font-size: .9rem; }
td[title] { white-space: nowrap; }
.mark { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .4em; }
pre { overflow-x: auto; font-size: .8rem; background: var(--soft); padding: .6rem; }
summary { cursor: pointer; }
"""
SCRIPT = """
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
      return up ? order : -order;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
});
"""
DRAWN_FIRST = ("validation_loss", "training_loss")


def page(results: Sequence[Reported], project: str) -> str:
    """The whole page; the results stand in their order."""
    configurations = [configuration(result.trace) for result in results]
    differing, common = divided(configurations)
    colors = {result.key: curve_svg.color(number) for number, result in enumerate(results)}
    count = f"{len(results)} result{'s' if len(results) != 1 else ''}"
    parts = [
        f"<h1>{_escaped(project)}: {count}</h1>",
        f"<p>Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC. A click on a column sorts by it.</p>",
        _overview(results, configurations, differing, colors),
        "<h2>Curves</h2>",
        _legend(results, configurations, differing, colors),
        _curves(results, colors),
        "<h2>What all have in common</h2>" if len(results) > 1 else "<h2>Configuration</h2>",
        _pairs(common),
        "<h2>Provenance</h2>",
        _provenance(results, colors),
        "<h2>Every result in full</h2>",
        *(_details(result) for result in results),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(project)}: {count}</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(parts)}<script>{SCRIPT}</script></body></html>\n"
    )


def _overview(
    results: Sequence[Reported],
    configurations: Sequence[Mapping[str, str]],
    differing: Sequence[str],
    colors: Mapping[str, str],
) -> str:
    """A row per result: what came out, how long it took, what differs."""
    metrics = list(dict.fromkeys(name for result in results for name in result.metrics))
    heads = ["task", *metrics, "epochs", "duration", "parameters", *differing, "finished (UTC)"]
    rows = []
    for result, configured in zip(results, configurations, strict=True):
        facts = result.facts
        cells = [_mark(result, colors)]
        cells += [_number(result.metrics.get(name)) for name in metrics]
        cells.append(_number(facts["epochs"], f"{facts['epochs']}"))
        cells.append(_number(facts["duration"], lasting(facts["duration"])))
        cells.append(_number(facts["parameter_count"], f"{facts['parameter_count']:,}"))
        cells += [_cell(configured.get(name, "")) for name in differing]
        cells.append(_cell(f"{facts['utc_insert_time']:%Y-%m-%d %H:%M:%S}"))
        rows.append(cells)
    return _table(heads, rows)


def _provenance(results: Sequence[Reported], colors: Mapping[str, str]) -> str:
    found = [provenance(result.trace) for result in results]
    names = list(dict.fromkeys(name for row in found for name in row if any(other.get(name) for other in found)))
    rows = [
        [_mark(result, colors), *(_cell(row.get(name, "")) for name in names)]
        for result, row in zip(results, found, strict=True)
    ]
    return _table(["task", *names], rows)


def _legend(
    results: Sequence[Reported],
    configurations: Sequence[Mapping[str, str]],
    differing: Sequence[str],
    colors: Mapping[str, str],
) -> str:
    """A line per result, with what differs and all of them have; the table above has the rest."""
    items = []
    telling = [name for name in differing if all(name in configured for configured in configurations)]
    for result, configured in zip(results, configurations, strict=True):
        told = ", ".join(f"{name} {configured[name]}" for name in telling)
        items.append(f"<li>{_dot(colors[result.key])}{result.short} {_escaped(told)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _curves(results: Sequence[Reported], colors: Mapping[str, str]) -> str:
    """Every value on an axis of its own, all results on each."""
    figures = []
    for name in drawn_names(results):
        curves = {result.short: result.curve.points(name) for result in results}
        shades = {result.short: colors[result.key] for result in results}
        figures.append(f"<figure>{curve_svg.draw(curves, name, colors=shades)}</figure>")
    return f'<div class="curves">{"".join(figures)}</div>'


def drawn_names(results: Sequence[Reported]) -> list[str]:
    """The values that have curves, the losses first; those that are 0 everywhere have none."""
    names = dict.fromkeys([*DRAWN_FIRST, *(name for result in results for name in result.curve.names)])
    return [name for name in names if any(any(result.curve.points(name)[1]) for result in results)]


def _details(result: Reported) -> str:
    tree = _escaped(render(result.trace))
    return f"<details><summary>{_escaped(result.title)}</summary><pre>{tree}</pre></details>"


def _pairs(values: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{_escaped(name)}</th><td>{_escaped(value)}</td></tr>" for name, value in values.items())
    return f'<div class="wide"><table>{rows}</table></div>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col"><button type="button">{_escaped(name)}</button></th>' for name in heads)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _mark(result: Reported, colors: Mapping[str, str]) -> str:
    return f'<td title="{_escaped(result.key)}">{_dot(colors[result.key])}{_escaped(result.short)}</td>'


def _dot(color: str) -> str:
    return f'<span class="mark" style="background:{color}"></span>'


def _cell(text: str) -> str:
    return f"<td>{_escaped(text)}</td>"


def _number(value: float | None, text: str | None = None) -> str:
    """A cell that sorts by its number; empty where there is none."""
    if value is None:
        return '<td class="number"></td>'
    shown = f"{value:.4g}" if text is None else text
    return f'<td class="number" data-value="{float(value)!r}">{_escaped(shown)}</td>'


def _escaped(text: Any) -> str:
    return html.escape(str(text))
