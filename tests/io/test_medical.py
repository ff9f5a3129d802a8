"""DICOM and NIfTI made by pydicom and nibabel: read, and written where they lie."""

import gzip
import io
import warnings

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from mgdn_jax.errors import FusionWarning, InputError
from mgdn_jax.io import files, guard, medical
from mgdn_jax.io.labels import shared_labels


def slice_of(array, height=0.0, series="1.2.3", **tags):
    """A CT slice at a height in the patient."""
    made = Dataset()
    made.PatientName, made.PatientID = "Doe^Jane", "P-7"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2", series
    made.SOPClassUID, made.SOPInstanceUID = CTImageStorage, generate_uid()
    made.Modality, made.FrameOfReferenceUID = "CT", "1.9"
    made.ImagePositionPatient = [-10.0, -20.0, height]
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.PixelSpacing, made.SliceThickness = [0.5, 0.25], 2.0
    made.Rows, made.Columns = array.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * array.dtype.itemsize
    made.PixelRepresentation = int(array.dtype.kind == "i")
    made.PixelData = array.tobytes()
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    made.HighBit = made.BitsStored - 1
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def saved(path, made):
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


STORED = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80
CT = {"BitsStored": 12, "RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": "HU"}


def test_a_ct_slice_is_in_hounsfield_units_with_its_window(tmp_path):
    tags = CT | {"WindowCenter": [40, 300], "WindowWidth": [80, 1500]}
    picture = files.read_picture(saved(tmp_path / "ct.dcm", slice_of(STORED, **tags)))
    wanted = STORED.astype(np.int16) - 1024
    np.testing.assert_array_equal(picture.pixels, wanted, strict=True)
    assert picture.unit == "HU"
    assert picture.window == (40, 80)
    assert picture.span == (-1024, 3071)
    assert files.read_pages(tmp_path / "ct.dcm") == 1
    nameless = saved(tmp_path / "IM0001", slice_of(STORED, **tags))
    np.testing.assert_array_equal(files.read_picture(nameless).pixels, wanted)


def test_scales_signs_and_negatives(tmp_path):
    def read(array, **tags):
        return files.read_picture(saved(tmp_path / "x.dcm", slice_of(array, **tags)))

    mr = read(STORED, Modality="MR", BitsStored=12)
    np.testing.assert_array_equal(mr.pixels, STORED, strict=True)
    assert (mr.unit, mr.span) == ("", (0, 4095))
    signed = read(STORED.astype(np.int16) - 1000, Modality="MR")
    np.testing.assert_array_equal(signed.pixels, STORED.astype(np.int16) - 1000, strict=True)
    assert signed.span is None
    pet = read(STORED, Modality="PT", Units="BQML", RescaleSlope="0.5", RescaleIntercept="2")
    np.testing.assert_array_equal(pet.pixels, STORED.astype(np.float32) * 0.5 + 2, strict=True)
    assert pet.unit == "BQML"
    film = read(
        STORED, Modality="CR", BitsStored=12, PhotometricInterpretation="MONOCHROME1",
        WindowCenter=1000, WindowWidth=400,
    )  # fmt: skip
    np.testing.assert_array_equal(film.pixels, 4095 - STORED, strict=True)
    assert film.window == (3095, 400)
    eight = read(STORED.astype(np.uint8), Modality="US")
    np.testing.assert_array_equal(eight.pixels, STORED.astype(np.uint8), strict=True)


def test_colour_frames_and_compression(tmp_path):
    colour = np.arange(2 * 6 * 8 * 3).reshape(2, 6, 8, 3).astype(np.uint8)
    tags = {
        "SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB",
        "Rows": 6, "Columns": 8, "NumberOfFrames": 2, "Modality": "US",
    }  # fmt: skip
    path = saved(tmp_path / "us.dcm", slice_of(colour, **tags))
    assert files.read_pages(path) == 2
    for page in (0, 1):
        np.testing.assert_array_equal(files.read_picture(path, page).pixels, colour[page])
    assert "has 2 frames of which the first was read" in files.read_picture(path).remarks[0]
    packed = slice_of(STORED, **CT)
    packed.compress(RLELossless)
    picture = files.read_picture(saved(tmp_path / "rle.dcm", packed))
    np.testing.assert_array_equal(picture.pixels, STORED.astype(np.int16) - 1024)
    packed.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.70"
    with pytest.raises(InputError, match=r"is compressed as JPEG Lossless.*decompress it"):
        files.read_picture(saved(tmp_path / "lossless.dcm", packed))


def test_frames_that_say_each_where_they_lie(tmp_path):
    frames = np.stack([STORED, STORED + 1])
    groups = []
    for height in (3.0, 5.0):
        place, scale, group = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [-10, -20, height]
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = 1, -height, "HU"
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [place], [scale]
        groups.append(group)
    shared, turn, measures = Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.25], 2
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [measures]
    made = slice_of(
        frames, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups,
        SharedFunctionalGroupsSequence=[shared],
    )  # fmt: skip
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(made, keyword)
    path = saved(tmp_path / "enhanced.dcm", made)
    for page, height in enumerate((3, 5)):
        picture = files.read_picture(path, page)
        np.testing.assert_array_equal(picture.pixels, frames[page].astype(int) - height)
        np.testing.assert_allclose(picture.labels.geometry.affine[:3, 3], [-10, -20, height])
        files.write_image(tmp_path / "f.dcm", frames[page], labels=picture.labels)
        header = pydicom.dcmread(tmp_path / "f.dcm")
        assert list(header.ImagePositionPatient) == [-10, -20, height]


def test_files_without_pixels_and_damaged_ones(tmp_path, monkeypatch):
    plan = slice_of(STORED)
    del plan.Rows
    with pytest.raises(InputError, match=r"plan\.dcm is a DICOM file without pixels"):
        files.read_picture(saved(tmp_path / "plan.dcm", plan))
    path = saved(tmp_path / "cut.dcm", slice_of(STORED))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"cut\.dcm is damaged"):
        files.read_picture(path)
    monkeypatch.setattr(guard, "MAX_PIXELS", 40)
    with pytest.raises(InputError, match=r"large\.dcm has more than"):
        files.read_picture(saved(tmp_path / "large.dcm", slice_of(STORED)))


def series(folder, heights=(4.0, 0.0, 2.0), **tags):
    folder.mkdir()
    for number, height in enumerate(heights):
        array = STORED + np.uint16(height)
        saved(
            folder / f"IM{number}.dcm", slice_of(array, height, InstanceNumber=9 - number, **tags)
        )
    (folder / "notes.txt").write_text("not a slice")
    return folder


def test_a_series_is_ordered_by_position(tmp_path):
    folder = series(tmp_path / "ct")
    assert [path.name for path in medical.read_series(folder)] == ["IM1.dcm", "IM2.dcm", "IM0.dcm"]
    assert files.read_pages(folder) == 3
    for page, height in enumerate((0, 2, 4)):
        np.testing.assert_array_equal(files.read_picture(folder, page).pixels, STORED + height)
    assert "has 3 slices of which the first" in files.read_picture(folder).remarks[0]
    with pytest.raises(InputError, match="has no page 3"):
        files.read_picture(folder, 3)


def test_what_is_no_single_series_is_refused(tmp_path):
    folder = series(tmp_path / "mixed")
    saved(folder / "other.dcm", slice_of(STORED, 9.0, "1.2.4", SeriesDescription="T2"))
    with pytest.raises(InputError, match=r"2 DICOM series \(3 of .*1 of 'T2'\); put each"):
        medical.read_series(folder)
    folder = series(tmp_path / "scout")
    scout = slice_of(STORED, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    saved(folder / "scout.dcm", scout)
    with pytest.raises(InputError, match="several orientations"):
        medical.read_series(folder)
    with pytest.raises(InputError, match="several slices at one position"):
        medical.read_series(series(tmp_path / "echoes", (0.0, 2.0, 2.0)))
    with pytest.warns(FusionWarning, match="lacks slices: .* up to 6 mm where 2 mm is usual"):
        medical.read_series(series(tmp_path / "gap", (0.0, 2.0, 4.0, 10.0)))
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no DICOM file"):
        medical.read_series(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder where an image file is expected"):
        files.read_picture(tmp_path / "none")


def test_a_result_lies_where_its_source_lies_without_the_patient(tmp_path):
    source = files.read_picture(saved(tmp_path / "ct.dcm", slice_of(STORED, 6.0, **CT)))
    for keep in ("usual", "all"):
        labels, _ = shared_labels([source.labels, source.labels], keep)
        fused = (source.pixels / 2).astype(np.int16)
        files.write_image(tmp_path / "fused.dcm", fused, labels=labels)
        back = files.read_picture(tmp_path / "fused.dcm")
        np.testing.assert_array_equal(back.pixels, fused, strict=True)
        header = pydicom.dcmread(tmp_path / "fused.dcm")
        assert list(header.ImagePositionPatient) == [-10, -20, 6]
        assert list(header.PixelSpacing) == [0.5, 0.25]
        assert header.FrameOfReferenceUID == "1.9"
        assert "DERIVED" in header.ImageType
        assert (header.PatientName == "Doe^Jane") == (keep == "all")
        assert (header.StudyInstanceUID == "1.2") == (keep == "all")
        assert header.SeriesInstanceUID != "1.2.3"
        np.testing.assert_allclose(back.labels.geometry.affine, source.labels.geometry.affine)
        whole = (tmp_path / "fused.dcm").read_bytes()
        assert (b"Doe" in whole) == (b"P-7" in whole) == (keep == "all")


def test_the_scale_of_a_result_is_said(tmp_path):
    labels = files.read_picture(saved(tmp_path / "ct.dcm", slice_of(STORED, **CT))).labels
    values = np.linspace(-1.5, 2.5, 48, dtype=np.float32).reshape(6, 8)
    files.write_image(tmp_path / "f.dcm", values, labels=labels)
    back = files.read_picture(tmp_path / "f.dcm")
    assert back.pixels.dtype == np.float32
    assert np.abs(back.pixels - values).max() <= 4 / 65535
    colour = np.arange(6 * 8 * 3).reshape(6, 8, 3).astype(np.uint8)
    files.write_image(tmp_path / "c.dcm", colour, labels=labels)
    np.testing.assert_array_equal(files.read_image(tmp_path / "c.dcm"), colour)
    with pytest.raises(InputError, match="needs a DICOM source"):
        files.write_image(tmp_path / "n.dcm", colour)
    with pytest.raises(InputError, match="would be 8x5 but its source is 8x6"):
        files.write_image(tmp_path / "n.dcm", colour[1:], labels=labels)
    with pytest.raises(InputError, match="without alpha"):
        files.write_image(tmp_path / "n.dcm", np.dstack([colour, colour[..., 0]]), labels=labels)
    assert not (tmp_path / "n.dcm").exists()


def test_a_series_becomes_a_series_or_a_volume(tmp_path):
    folder = series(tmp_path / "ct")
    pictures = [files.read_picture(folder, page) for page in range(3)]
    labels = [picture.labels for picture in pictures]
    paths = medical.write_series(tmp_path / "out", (p.pixels for p in pictures), labels)
    assert [path.name for path in paths] == ["0001.dcm", "0002.dcm", "0003.dcm"]
    assert medical.read_series(tmp_path / "out") == paths
    assert files.read_pages(tmp_path / "out") == 3
    medical.write_volume(tmp_path / "ct.nii.gz", [p.pixels for p in pictures], labels)
    volume = nibabel.load(tmp_path / "ct.nii.gz")
    # Columns run to the patient's left and rows to the back; NIfTI counts right and front.
    np.testing.assert_allclose(volume.affine[:3, 3], [10, 20, 0])
    np.testing.assert_allclose(np.diag(volume.affine), [-0.25, -0.5, 2, 1])
    np.testing.assert_array_equal(volume.dataobj[3, 2, 1], pictures[1].pixels[2, 3])
    with pytest.raises(InputError, match="needs the labels of each slice"):
        medical.write_series(tmp_path / "few", [p.pixels for p in pictures], labels[:2])


def volume(path, dtype=np.int16, shape=(7, 5, 4), scale=(1, 0), **header):
    data = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = -5, -6, -7
    kind = nibabel.Nifti1Image(data, affine)
    kind.header["descrip"] = b"Jane Doe"
    for key, value in header.items():
        kind.header[key] = value
    kind.header.set_slope_inter(*scale)
    if scale != (1, 0):
        kind = nibabel.Nifti1Image((data * scale[0] + scale[1]).astype(np.float64), affine)
        kind.header.set_data_dtype(dtype)
    nibabel.save(kind, path)
    return data, affine


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_a_volume_is_read_slice_by_slice_and_written_where_it_lies(tmp_path, ending, dtype):
    path = tmp_path / f"t1{ending}"
    data, affine = volume(path, dtype, cal_min=10, cal_max=50)
    assert files.read_pages(path) == 4
    pictures = [files.read_picture(path, page) for page in range(4)]
    for page, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture.pixels, data[:, ::-1, page].T, strict=True)
        assert picture.window == (30, 40)
    assert "has 4 slices of which the first" in files.read_picture(path).remarks[0]
    for keep in ("usual", "all"):
        labels, _ = shared_labels([pictures[0].labels], keep)
        out = tmp_path / f"fused{ending}"
        medical.write_volume(out, (p.pixels for p in pictures), labels)
        back = nibabel.load(out)
        np.testing.assert_array_equal(np.asarray(back.dataobj), data, strict=True)
        np.testing.assert_allclose(back.affine, affine)
        assert (b"Jane" in back.header["descrip"].tobytes()) == (keep == "all")
        assert back.header["cal_max"] == 0
    # One slice lies where it lay in the volume.
    files.write_image(tmp_path / "one.nii", pictures[2].pixels, labels=pictures[2].labels)
    one = nibabel.load(tmp_path / "one.nii")
    np.testing.assert_array_equal(np.asarray(one.dataobj)[..., 0], data[..., 2])
    np.testing.assert_allclose(one.affine[:3, 3], [-5, -6, -7 + 2 * 4])


def test_volumes_with_a_scale_times_and_colours(tmp_path):
    path = tmp_path / "pet.nii.gz"
    data, _ = volume(path, np.int16, scale=(0.5, 2.0))
    picture = files.read_picture(path, 1)
    assert picture.pixels.dtype == np.float32
    np.testing.assert_allclose(picture.pixels, data[:, ::-1, 1].T * 0.5 + 2, rtol=1e-3)
    path = tmp_path / "bold.nii"
    data, _ = volume(path, shape=(7, 5, 4, 3))
    assert files.read_pages(path) == 12
    pictures = [files.read_picture(path, page) for page in range(12)]
    np.testing.assert_array_equal(pictures[6].pixels, data[:, ::-1, 2, 1].T)
    medical.write_volume(tmp_path / "out.nii", [p.pixels for p in pictures], pictures[0].labels)
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "out.nii").dataobj), data)
    colours = [np.full((5, 7, 3), value, np.uint8) for value in range(4)]
    volume(tmp_path / "t1.nii")
    labels = files.read_picture(tmp_path / "t1.nii").labels
    medical.write_volume(tmp_path / "rgb.nii.gz", colours, labels)
    np.testing.assert_array_equal(files.read_picture(tmp_path / "rgb.nii.gz", 3).pixels, colours[3])


def test_volumes_that_cannot_be_read_or_written(tmp_path, monkeypatch):
    path = tmp_path / "t1.nii"
    volume(path)
    labels = files.read_picture(path).labels
    # Three slices from the first on are a part of the volume; from the last on there is one.
    other = files.read_picture(path, 3).labels
    with pytest.raises(InputError, match="has 3 slices"):
        medical.write_volume(tmp_path / "x.nii", [np.zeros((5, 7), np.int16)] * 3, other)
    with pytest.raises(InputError, match="has 7x5, so its place is lost"):
        medical.write_volume(tmp_path / "x.nii", [np.zeros((4, 7), np.int16)] * 4, labels)
    with pytest.raises(InputError, match=r"let its name end in \.nii\.gz"):
        medical.write_volume(tmp_path / "x.tif", [], labels)
    with pytest.raises(InputError, match="slices of one size"):
        medical.write_volume(tmp_path / "x.nii", [], labels)
    volume(tmp_path / "five.nii", shape=(3, 3, 2, 2, 2))
    with pytest.raises(InputError, match="has the shape 3x3x2x2x2"):
        files.read_picture(tmp_path / "five.nii")
    broken = gzip.compress(path.read_bytes())[:-60]
    (tmp_path / "cut.nii.gz").write_bytes(broken)
    with pytest.raises(InputError, match=r"cut\.nii\.gz is damaged"):
        files.read_picture(tmp_path / "cut.nii.gz", 3)
    # A small file that declares a large volume is refused before it is unpacked.
    header = nibabel.Nifti1Header()
    header.set_data_shape((1000, 1000, 1000))
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    monkeypatch.setattr(guard, "MAX_BYTES", 10**8)
    with pytest.raises(InputError, match=r"bomb\.nii\.gz takes .* GiB when it is unpacked"):
        files.read_picture(tmp_path / "bomb.nii.gz")


def test_pictures_that_lie_elsewhere_are_said(tmp_path):
    one = files.read_picture(saved(tmp_path / "a.dcm", slice_of(STORED))).labels
    two = files.read_picture(saved(tmp_path / "b.dcm", slice_of(STORED, 5.0))).labels
    labels, warned = shared_labels([one, two], names=["a.dcm", "b.dcm"])
    assert warned == [
        "b.dcm does not lie where a.dcm lies in the patient or volume, and the result keeps the "
        "geometry of a.dcm; resample one onto the other first."
    ]
    assert labels.geometry.header is one.geometry.header
    assert shared_labels([one, one])[1] == []
    assert shared_labels([one, two], "none")[0].geometry is None


def test_a_file_in_memory_is_read_too(tmp_path):
    from mgdn_jax.io import codec

    volume(tmp_path / "t1.nii.gz", np.uint8)
    for name in ("t1.nii.gz",):
        data = (tmp_path / name).read_bytes()
        with pytest.warns(FusionWarning, match="4 slices of which the first was read"):
            pixels = files.read_image(tmp_path / name)
        np.testing.assert_array_equal(codec.decode_image(data, name), pixels)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pydicom.dcmwrite(buffer, slice_of(STORED, Modality="MR"), enforce_file_format=True)
    np.testing.assert_array_equal(codec.decode_image(buffer.getvalue(), "x"), STORED)
