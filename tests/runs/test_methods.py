"""The methods' names."""

import pytest

from sharp_plugins.runs.methods import Method, find_method


@pytest.mark.parametrize(
    "name, expected",
    [
        ("base", (None, None, None)),
        ("sam", (None, "sam", None)),
        ("dsam-r3f", (None, "dsam", "r3f")),
        ("lora", ("lora", None, None)),
        ("lora-obar", ("lora", "obar", None)),
        ("lora-dsam-rdrop", ("lora", "dsam", "rdrop")),
        ("freelb", (None, None, "freelb")),
        ("houlsby", ("houlsby", None, None)),
        ("pfeiffer-sam", ("pfeiffer", "sam", None)),
        ("prefix-dsam", ("prefix", "dsam", None)),
    ],
)
def test_a_methods_name(name, expected):
    assert find_method(name)[1:] == expected


@pytest.mark.parametrize(
    "name",
    ["adam", "sam-dsam", "r3f-dsam", "sam-lora", "base-sam", "sam-sam", "r3f-rdrop", "-sam", "lora-houlsby", "prefix-lora", ""],
)
def test_no_method_of_that_name(name):
    with pytest.raises(ValueError, match=f"--methods {name}: there is no such method"):
        find_method(name)


@pytest.mark.parametrize(
    "name, better",
    [("obar", "lora-obar"), ("nbar-r3f", "lora-nbar-r3f"), ("pfeiffer-obar", "lora-obar"), ("prefix-nbar", "lora-nbar")],
)
def test_bar_needs_lora(name, better):
    with pytest.raises(ValueError, match=f"--methods {name}: .*use {better}$"):
        find_method(name)


def test_a_benchmarks_own_methods():
    extra = {"untrained": Method("untrained")}
    assert find_method("untrained", extra) is extra["untrained"] and find_method("sam", extra) == find_method("sam")
    with pytest.raises(ValueError, match="--methods trained: there is no such method; it is base, untrained, or one or more"):
        find_method("trained", extra)
