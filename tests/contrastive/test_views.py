"""Masked spans."""

from collections import Counter

import numpy

from sharp_plugins.contrastive.views import generator_of, mask_span


class Start:
    """In a generator's place: always the same start; notes the bounds."""

    def __init__(self, start):
        self.start = start

    def integers(self, low, high):
        self.bounds = (low, high)
        return self.start


def test_five_characters_become_the_mask():
    text = "abcdefghijklmnopqrstuvwxyz0123"
    random = Start(24)
    assert mask_span(text, random) == "abcdefghijklmnopqrstuvwx [MASK] 3"
    assert random.bounds == (0, 25)  # 0 to len - 6
    assert mask_span(text, Start(0), length=2, mask="<mask>") == " <mask> cdefghijklmnopqrstuvwxyz0123"


def test_a_short_text_stays_and_a_span_of_none_too():
    assert mask_span("a" * 29, Start(0)) == "a" * 29
    assert mask_span("ab" * 20, Start(0), length=0) == "ab" * 20


def test_a_repeated_string_moves_the_span_to_its_first_place():
    text = "say hello and then say hello to all"
    assert mask_span(text, Start(23)) == "say  [MASK]  and then say hello to all"


def test_starts_are_uniform_and_a_text_has_its_own_in_each_epoch():
    text = "".join(map(chr, range(256, 296)))  # all different
    counts = Counter(mask_span(text, generator_of(1, 1, number)).index(" [MASK] ") for number in range(7000))
    assert set(counts) == set(range(35))
    assert max(abs(count - 200) for count in counts.values()) < 70  # 5 standard deviations
    one, again, other = (mask_span(text, generator_of(1, epoch, 5)) for epoch in (1, 1, 2))
    assert one == again != other
    assert isinstance(generator_of(1, 1, 5), numpy.random.Generator)
