"""Bands of layers."""

import pytest

from keel.calibrate import Band, default_bands
from keel.errors import UsageError


def test_default_bands_fit_every_depth():
    for layers in range(1, 200):
        bands = default_bands(layers)
        assert bands
        assert len(set(bands)) == len(bands)
        assert all(0 <= b.start < b.stop <= layers for b in bands)


@pytest.mark.parametrize("layers", [30, 46, 64, 80])
def test_default_bands_are_as_wide_as_the_papers(layers):
    # Its two settings have 12.5 % and 20 % of the layers.
    assert all(0.125 <= len(b.layers) / layers <= 0.20 for b in default_bands(layers))


def test_the_latest_band_lies_where_the_papers_does():
    # Qwen 3 32B: layers 46 to 53 of 64.
    assert set(default_bands(64)[-1].layers) & set(range(46, 54))


def test_a_band_is_written_as_a_python_slice():
    band = Band.parse("18:23")
    assert (band.name, list(band.layers)) == ("layers_18:23", [18, 19, 20, 21, 22])


@pytest.mark.parametrize("text", ["18", "18-23", "a:b", "23:18", "-1:4", "5:5"])
def test_a_band_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="START:STOP"):
        Band.parse(text)


def test_a_band_past_the_last_layer_is_refused():
    with pytest.raises(UsageError, match="30 layers"):
        Band.parse("28:33").check_fits(30)
