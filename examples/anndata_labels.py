"""Classify cells by the text of their type: embeddings in AnnData, with donors or libraries apart.

    python examples/anndata_labels.py
    python examples/anndata_labels.py --data cells.h5ad --obsm X_scgpt --label type --group donor

Needs `pip install scanpy`; with --data, anndata and scikit-learn are enough. Slides work as cells
do. Aligns an embedding in `obsm` with the text of the labels, and classifies the cells of groups
that were not in training by the nearest text. Prints the accuracy for each fold of groups, next to
that of a classifier that sees no text, and the recall of each class over all folds.

Without --data, the cells are the 700 blood cells that scanpy contains. They come from one donor, so
the groups are the eight libraries of the experiment, which the barcodes name. Libraries differ less
than donors do: with several donors, name their column by --group. The embedding is a PCA of all 700
cells, test cells included; an encoder that was trained elsewhere has no such leak. The labels are
themselves predictions, from sorted cells, so no method reaches 100 %.
"""

# %%
import argparse
import re
from pathlib import Path

import anndata
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from structure_reg import Aligner, zero_shot

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--data", type=Path, help="file in h5ad format; default: cells of scanpy")
parser.add_argument("--obsm", default="X_pca", help="key of the embedding; default: %(default)s")
parser.add_argument("--label", default="bulk_labels", help="column in obs; default: %(default)s")
parser.add_argument("--group", help="column of the donor; default: the end of the name, after a -")
parser.add_argument("--folds", type=int, default=4, help="folds of groups; default: %(default)s")
args = parser.parse_args()

# %% The cells: one embedding, one label and one group for each
if args.data:
    cells = anndata.read_h5ad(args.data)
else:
    import scanpy

    cells = scanpy.datasets.pbmc68k_reduced()
x = np.asarray(cells.obsm[args.obsm], dtype="float32")
labels = cells.obs[args.label].astype(str).to_numpy()
ends = [name.rpartition("-")[2] for name in cells.obs_names]
groups = np.array(cells.obs[args.group] if args.group else ends, dtype=str)
classes, numbers = np.unique(labels, return_inverse=True)
print(f"{len(x)} cells, {len(classes)} classes, {len(np.unique(groups))} groups")


# %% The texts. A sentence encoder in place of this function also knows that a Treg is a T cell.
def embed(texts: np.ndarray) -> np.ndarray:
    """Bags of words, without the words that all texts share."""
    bags = [set(re.findall(r"\w+", text.lower())) for text in texts]
    words = sorted(set.union(*bags) - set.intersection(*bags))
    return np.array([[word in bag for word in words] for bag in bags], dtype="float32")


y = embed(classes)

# %% Groups apart: no group has cells both in training and in test
found = np.empty(len(x), dtype=int)
print(f"{'groups':20}{'accuracy':>10}{'top 3':>8}{'macro F1':>10}{'no text':>9}{'majority':>10}")
for train, test in GroupKFold(args.folds).split(x, groups=groups):
    aligner = Aligner().fit(x[train], y[numbers[train]], ids=labels[train])
    z_cells, z_classes = aligner.transform_x(x[test]), aligner.transform_y(y)
    found[test] = (z_cells @ z_classes.T).argmax(1)
    measured = zero_shot(z_cells, z_classes, numbers[test], ks=(1, 3))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    no_text = classifier.fit(x[train], numbers[train]).score(x[test], numbers[test])
    majority = np.mean(numbers[test] == np.bincount(numbers[train]).argmax())
    top_1, top_3 = 100 * measured.accuracy
    print(
        f"{', '.join(np.unique(groups[test])):20}{top_1:8.1f} %{top_3:6.1f} %"
        f"{measured.macro_f1:10.2f}{100 * no_text:7.1f} %{100 * majority:8.1f} %"
    )

# %% Classes with few cells are where an average misleads
print(f"\n{'class':32}{'cells':>6}{'recall':>9}   most often taken for")
for number, name in enumerate(classes):
    of_class = found[numbers == number]
    wrong = of_class[of_class != number]
    taken = classes[np.bincount(wrong).argmax()] if len(wrong) else "-"
    print(f"{name:32}{len(of_class):6}{100 * np.mean(of_class == number):7.0f} %   {taken}")
