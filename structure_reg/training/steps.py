"""How many steps training takes."""

from __future__ import annotations

# Of batches of 4096 pairs. On 11,745 pairs of icons and names, recall is as good after 20 steps as
# after 50 or 100; STRUCTURE and the contrastive loss cost the square of the batch.
WORTH, BATCH = 32, 4096


def step_count(n: int, epochs: int, batch_size: int, max_steps: int | None) -> int:
    """Steps of all passes over n pairs, but at most `max_steps`."""
    steps = epochs * max(1, n // batch_size)
    if max_steps is not None:
        return min(steps, max_steps)
    return steps if n <= batch_size else min(steps, steps_worth(batch_size))


def steps_worth(batch_size: int) -> int:
    """As many steps as cost the time of 32 steps of 4096 pairs, and at least 32."""
    return max(WORTH, WORTH * BATCH**2 // batch_size**2)
