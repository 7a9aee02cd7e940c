"""The plain loop runs, and its one line keeps neighbourhoods."""

import re


def test_the_line_keeps_neighbourhoods(printed):
    plain, structured = printed("plain_loop", "--epochs", "20").splitlines()[1:]
    found, kept = [], []
    for line in (plain, structured):
        recall, images, texts = map(float, re.findall(r"([\d.]+) %", line))
        found.append(recall)
        kept.append((images, texts))
    assert kept[1][0] > kept[0][0] + 1
    assert kept[1][1] > kept[0][1] + 1
    assert min(found) > 10  # of 100; chance is 1.2
