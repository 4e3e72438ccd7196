"""Parsers of single values: what they take, and what they say where they do not."""

import pytest

from src.cli.values import auto_or, epochs, names, one_or_several, rates, real, shares, some_of, warmup, whole


@pytest.mark.parametrize(("parse", "text", "value"), [
    (whole(1), "1", 1), (whole(0), "0", 0), (whole(0, 256), "256", 256), (whole(0), " 7 ", 7),
    (real(0), "0", 0.0), (real(0, 1), "1", 1.0), (real(above=0), "1e-300", 1e-300), (real(0), "1e-5", 1e-5),
    (one_or_several(whole(0)), "7", 7), (one_or_several(whole(0)), "3,1, 2", (3, 1, 2)),
    (names, "DTD", ("DTD",)), (names, "DTD,CIFAR100", ("DTD", "CIFAR100")), (names, " B , A ", ("B", "A")),
    (rates, "1e-5", {None: 1e-5}),
    (rates, "1e-5,Aircraft=5e-5,MNIST=5e-5", {None: 1e-5, "Aircraft": 5e-5, "MNIST": 5e-5}),
    (rates, "folder:a=b=2e-5, 1e-5", {"folder:a=b": 2e-5, None: 1e-5}),
    (epochs, "10", 10), (epochs, "10,SUN397=5", {None: 10, "SUN397": 5}),
    (epochs, "folder:a=b=2, 3", {"folder:a=b": 2, None: 3}),
    (some_of("qkvo"), "v,k", ("k", "v")), (some_of("qkvo"), "o", ("o",)),
    (shares, "0.5", (0.5,)), (shares, "0,0.25,1", (0.0, 0.25, 1.0)),
    (warmup, "100", "100"), (warmup, "0", "0"), (warmup, "20%", "20%"), (warmup, "0.5%", "0.5%"),
    (auto_or(whole(0)), "auto", "auto"), (auto_or(whole(0)), "3", 3),
])
def test_accepted(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text", "expected"), [
    (whole(1), "0", "a whole number, at least 1"), (whole(1), "-1", "at least 1"), (whole(1), "1.5", "whole number"),
    (whole(1), "", "whole number"), (whole(1), "nan", "whole number"), (whole(1), "1e3", "whole number"),
    (whole(0, 256), "257", "at least 0 and at most 256"),
    (real(0), "-0.1", "a number, at least 0"), (real(0), "nan", "a number"), (real(0), "inf", "a number"),
    (real(0), "1e400", "a number"), (real(0, 1), "1.01", "at most 1"), (real(above=0), "0", "above 0"),
    (real(above=0), "-inf", "above 0"), (real(above=0), "fast", "a number"),
    (names, "", "joined by commas"), (names, "A,,B", "joined by commas"), (names, ",", "joined by commas"),
    (names, "A,B,A,C", "A twice"),
    (rates, "", "a rate above 0"), (rates, "0", "a rate above 0"), (rates, "nan", "a rate above 0"),
    (rates, "A=1e-5", "rate of all other datasets"), (rates, "1e-5,A=0", "a rate above 0"),
    (rates, "1e-5,1e-4", "all other datasets twice"), (rates, "1e-5,A=1e-5,A=1e-4", "A twice"),
    (rates, "1e-5,=1e-4", "twice or not at all"), (rates, "1e-5,", "a rate above 0"),
    (epochs, "0", "a whole number, at least 1"), (epochs, str(2 ** 63), "at most 9223372036854775807"),
    (epochs, "10,A=0", "a whole number, at least 1, or a mapping such as 10,SUN397=5"),
    (epochs, "10,A=1.5", "at least 1, or a mapping"), (epochs, "10,", "or a mapping"),
    (epochs, "A=5", "lacks the number of all other datasets"), (epochs, "10,5", "number of all other datasets twice"),
    (epochs, "10,A=5,A=4", "A twice"),
    (warmup, "-1", "such as 20%"), (warmup, "120%", "such as 20%"), (warmup, "%", "such as 20%"),
    (warmup, "nan%", "such as 20%"), (warmup, "1.5", "such as 20%"),
    (auto_or(whole(0)), "Auto", "whole number"),
    (one_or_several(whole(0)), "1,", "a whole number"), (one_or_several(whole(0)), "1,-1", "at least 0"),
    (one_or_several(whole(0)), "1,2,01", "names a value twice"),
])
def test_refused(parse, text, expected):
    with pytest.raises(ValueError, match="^[^\n]+$") as caught:
        parse(text)
    assert expected in str(caught.value)
