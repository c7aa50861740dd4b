"""TensorRT's calibration cache, byte for byte."""

import struct

import pytest
from fake_tensorrt import VERSIONS, fake_library
from hypothesis import given
from hypothesis import strategies as st

from textual_vision.calibration.tensorrt_cache import (
    cache_from_scales,
    calibrator_from_cache,
    header_from_version,
    scales_from_cache,
)
from textual_vision.runtime.errors import IntegrityError, UsageError

ONE_127TH = struct.unpack(">f", bytes.fromhex("3c010204"))[0]


def test_the_format_is_this_byte_for_byte():
    scales = {"image": ONE_127TH, "conv:0": 1.0, "a b": 0.5}
    assert cache_from_scales(scales, "8.6.1") == (
        b"TRT-8601-EntropyCalibration2\nimage: 3c010204\nconv:0: 3f800000\na b: 3f000000\n"
    )


@pytest.mark.parametrize(
    ("version", "number"), [("8.6.1", 8601), ("8.6.1.6", 8601), ("10.3.0", 100300), ("10.13.3.9", 101303)]
)
def test_the_first_line_names_the_version(version, number):
    assert header_from_version(version) == f"TRT-{number}-EntropyCalibration2"


def test_what_the_library_writes_without_leading_zeros_is_read():
    assert scales_from_cache(b"TRT-8601-EntropyCalibration2\nx: 800000") == {"x": 2.0**-126}


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20)
SCALES = st.floats(2.0**-126, 2.0**100, width=32)


@given(st.dictionaries(NAMES, SCALES, max_size=8))
def test_what_is_written_is_read_back(scales):
    assert scales_from_cache(cache_from_scales(scales, "10.3.0")) == scales


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_our_error(data):
    try:
        scales_from_cache(data)
    except IntegrityError as error:
        assert error.message.startswith("calibration cache")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-45, 1e39])
def test_a_scale_that_is_no_positive_float32_is_refused(scale):
    with pytest.raises(UsageError, match="'x'"):
        cache_from_scales({"x": scale}, "8.6.1")


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb"])
def test_a_name_that_no_line_can_hold_is_refused(name):
    with pytest.raises(UsageError, match="no name"):
        cache_from_scales({name: 1.0}, "8.6.1")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b"image: 3c010a14\n", "line 1"),
        (b"TRT-8601-MinMaxCalibration\n", "made by MinMaxCalibration"),
        (b"TRT-8601-EntropyCalibration2\nx 3f800000\n", "line 2"),
        (b"TRT-8601-EntropyCalibration2\nx: 3f8000001\n", "line 2"),
        (b"TRT-8601-EntropyCalibration2\nx: 3f800000\nx: 3f800000\n", "line 3"),
        (b"TRT-8601-EntropyCalibration2\nx: 0\n", "scale 0.0"),
        (b"TRT-8601-EntropyCalibration2\nx: 7fc00000\n", "scale nan"),
        (b"TRT-8601-EntropyCalibration2\nx: bf800000\n", "scale -1.0"),
    ],
)
def test_a_damaged_cache_is_refused_with_the_line(data, words):
    with pytest.raises(IntegrityError, match=words):
        scales_from_cache(data)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_calibrator_hands_the_cache_to_the_versions_that_have_calibrators(version):
    library, cache = fake_library(version), cache_from_scales({"x": 1.0}, "10.3.0")
    if version.startswith(("11", "rtx")):
        with pytest.raises(UsageError, match="no calibrators"):
            calibrator_from_cache(library, cache)
        return
    calibrator = calibrator_from_cache(library, cache)
    assert isinstance(calibrator, library.IInt8EntropyCalibrator2)
    assert calibrator.read_calibration_cache() == cache
    assert calibrator.get_batch(["x"]) is None
    assert calibrator.get_batch_size() == 1
    calibrator.write_calibration_cache(memoryview(b"again"))
    assert calibrator.written == b"again"


def test_a_damaged_cache_never_becomes_a_calibrator():
    with pytest.raises(IntegrityError):
        calibrator_from_cache(fake_library("8.6.1"), b"TRT")
