"""The Lightning and Accelerate scripts on one process; two are in `test_two_processes`."""

import re

import pytest

pytest.importorskip("accelerate", reason="pip install '.[integrations]'")
pytest.importorskip("lightning", reason="pip install '.[integrations]'")


def test_accelerate(printed) -> None:
    found = printed("accelerate_loop")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", found)]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 1
    assert "mean recall of the test pairs: 0." in found


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*num_workers")
def test_lightning(printed) -> None:
    terms = re.findall(r"contrastive ([\d.]+)  structure ([\d.]+)", printed("lightning_module"))
    assert len(terms) == 5
    assert float(terms[-1][0]) < float(terms[0][0]) - 1
