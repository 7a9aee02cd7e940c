"""Draw docs/front_page.svg from the table of the README.

python docs/front_page.py
"""

import re
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
BARS = {  # row of the table: label
    "**`Aligner()`**": "Aligner()",
    "selected, ridge": "ridge regression, selected layers",
    "selected": "CLIP, selected layers",
    "last, ridge": "ridge regression, last layers",
    "last, CCA": "CCA, last layers",
    "last": "CLIP, last layers",
}
GREY = "#767676"  # legible on white and on black

table = re.findall(r"^\| (.+?) \|.*\| \**([\d.]+)[^|]*\|$", (ROOT / "README.md").read_text(), re.M)
means = {row: float(mean) for row, mean in table}

plt.rcParams |= {"text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY}
plt.rcParams |= {"svg.fonttype": "path", "svg.hashsalt": "structure-reg", "font.size": 12}
figure, axes = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
colors = ["tab:orange"] + ["tab:blue"] * (len(BARS) - 1)
bars = axes.barh(list(BARS.values()), [means[row] for row in BARS], color=colors, height=0.7)
axes.bar_label(bars, fmt="%.1f", padding=4, color=GREY)
axes.invert_yaxis()
axes.margins(x=0.1)
axes.tick_params(axis="y", length=0, labelcolor=GREY)
axes.spines[["top", "right", "left"]].set_visible(False)
axes.spines["bottom"].set_color(GREY)
axes.set_xlabel("mean recall, %")
figure.savefig(ROOT / "docs/front_page.svg", transparent=True, metadata={"Date": None})
