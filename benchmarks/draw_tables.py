"""Draw and print the figure and the table of README.md, from the results of tables.py.

    python benchmarks/draw_tables.py [RESULTS] [FIGURE]

RESULTS is `results/tables.md` by default, and FIGURE `doc/_static/benchmark.svg`. The
figure shows held-out loss against seconds. A loss is divided by CatBoost's on the same
set; points are geometric means over the sets, with standard errors. Seconds are
geometric means, too. As in tables.py, log losses below 0.01 count as 0.01. A model that
could not be fitted to some sets is in the table, with the number of its sets, and not
in the figure, as its seconds would be those of smaller sets.
"""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.transforms import Bbox

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/tables.md"
FIGURE = ROOT / "doc/_static/benchmark.svg"

LOSSES = {"regression": "RMSE", "classification": "log loss"}
LEAST_LOSS = 0.01
OURS, RIVAL = "GradientBasis", "CatBoost"
# A refit of ours, which the figure leaves out.
OMITTED = ["refit of 4 MLP"]
# Models in README.md.
COLUMNS = [OURS, RIVAL, "XGBoost", "HistGB", "forest", "RealMLP-TD-S", "xRFM"]
COLUMNS += ["kernel machine", "MLP"]
OUR_NAMES = {
    "regression": "GradientBasisRegressor",
    "classification": "GradientBasisClassifier",
}


def read_table(text, title):
    """Table below a title, as a frame of means: sets by models."""
    body = re.search(rf"^##+ {re.escape(title)}\n\n((?:\|.*\n)+)", text, re.M)
    if body is None:
        raise SystemExit(f"The results must have a table {title!r}, got none.")
    lines = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in body[1].splitlines()
    ]
    cells = pd.DataFrame(lines[2:], columns=lines[0]).set_index(lines[0][0])
    means = cells.apply(lambda column: column.str.partition(" ±")[0])
    return means.apply(pd.to_numeric, errors="coerce")


def relative_losses(text, part):
    """Logarithms of each model's loss over the rival's: sets by models."""
    losses = read_table(text, f"{part}: {LOSSES[part]}")
    if part == "classification":
        losses = losses.clip(lower=LEAST_LOSS)
    return np.log(losses.div(losses[RIVAL], axis=0))


def draw(ax, text, part):
    """Draw one panel; return seconds, and loss with its range, of each model."""
    relative = relative_losses(text, part).dropna(axis=1)
    seconds = np.log(read_table(text, f"{part}: seconds of a fit"))
    points = {}
    for name in seconds.columns.intersection(relative.columns.difference(OMITTED)):
        mean, error = relative[name].mean(), relative[name].sem()
        low, middle, high = np.exp([mean - error, mean, mean + error])
        points[name] = np.exp(seconds[name].mean()), low, middle, high
        style = {"color": "#1f77b4", "marker": "D", "ms": 9}
        ax.errorbar(
            points[name][0],
            middle,
            yerr=[[middle - low], [high - middle]],
            capsize=3,
            **style if name == OURS else {"color": "#555555", "marker": "o", "ms": 6},
        )
    ax.axhline(1, color="0.8", lw=1, zorder=0)
    ax.set_xscale("log")
    ax.set_xlim(0.01, 300)
    ax.margins(y=0.1)
    ax.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    ax.set_title(f"{part}, {len(relative)} data sets")
    ax.set_xlabel("seconds of a fit, one thread")
    ax.set_ylabel(f"held-out {LOSSES[part]} relative to {RIVAL}")
    ax.spines[["top", "right"]].set_visible(False)
    return points


def label(ax, points, part):
    """Write each name next to its point, away from points and other names."""
    # Boxes that are taken: error bars, and labels as they are placed.
    to_pixels, pad = ax.transData.transform, np.array([6, 2])
    taken = [
        Bbox([to_pixels((x, low)) - pad, to_pixels((x, high)) + pad])
        for x, low, _, high in points.values()
    ]
    for name in sorted(points, key=lambda each: (each != OURS, -points[each][0])):
        x, low, middle, high = points[name]
        ours = name == OURS
        # Beside the point, below and above its error bar, beside but higher.
        places = [((x, middle), (side, 0)) for side in (9, -9)]
        places += [((x, low), (0, -9)), ((x, high), (0, 9))]
        heights = (7, -7, 14, -14, 21, -21)
        places += [((x, middle), (side, y)) for y in heights for side in (9, -9)]
        for point, offset in places:
            text = ax.annotate(
                OUR_NAMES[part] if ours else name,
                point,
                offset,
                textcoords="offset points",
                ha=("center", "left", "right")[np.sign(offset[0])],
                va="center",
                color="#1f77b4" if ours else "#333333",
                weight="bold" if ours else "normal",
            )
            box = text.get_window_extent()
            is_inside = ax.bbox.x0 < box.x0 and box.x1 < ax.bbox.x1
            if is_inside and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            ax.add_artist(text)
        taken.append(box)


def readme_table(text):
    """Lines of the table in README.md: RMSE by set, and means of ratios."""
    losses = read_table(text, "regression: RMSE")[COLUMNS]
    lines = [["RMSE", *COLUMNS], [":--", *["--:"] * len(COLUMNS)]]
    for name, row in losses.iterrows():
        cells = ["–" if np.isnan(loss) else f"{loss:.3g}" for loss in row]
        best = np.nanargmin(row)
        cells[best] = f"**{cells[best]}**"
        lines.append([name.rpartition("/")[2], *cells])
    for part, kind in LOSSES.items():
        relative = relative_losses(text, part)
        means, errors = np.exp(relative.mean()), relative.sem()
        cells = [f"{means[c]:.2f} ± {means[c] * errors[c]:.2f}" for c in COLUMNS]
        for position, count in enumerate(relative[COLUMNS].count()):
            if count < len(relative):
                cells[position] += f" ({count} sets)"
        cells[COLUMNS.index(RIVAL)] = "1"
        lines.append([f"{kind} over {RIVAL}'s, {len(relative)} sets", *cells])
    return [f"| {' | '.join(line)} |" for line in lines]


def main(results=RESULTS, figure=FIGURE):
    """Draw both panels and print the table."""
    text = Path(results).read_text(encoding="utf-8")
    plt.rcParams.update({"svg.hashsalt": "sklearn-pgb", "font.size": 11})
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.8), layout="constrained")
    for ax, part in zip(axes, LOSSES, strict=True):
        points = draw(ax, text, part)
        fig.draw_without_rendering()
        label(ax, points, part)
    fig.savefig(figure, metadata={"Date": None})
    print("\n".join(readme_table(text)))


if __name__ == "__main__":
    main(*sys.argv[1:])
