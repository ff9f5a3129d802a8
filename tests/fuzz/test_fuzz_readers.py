"""Damaged files of every kind that is read: each is read, or refused in one sentence, soon.

`MGDN_FUZZ=2000` tries more of each kind than the 200 of the suite.
"""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from mutations import count, mutations, survey
from PIL import Image

from mgdn_jax.data import builders, folders, scenes
from mgdn_jax.evaluation import scores, summaries
from mgdn_jax.fusing import transforms
from mgdn_jax.io import codec, depth, labels, metadata, objects, profiles, reading
from mgdn_jax.io.pictures import Labels, Picture

# Decoders warn of odd files by the dozen; that is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")
RANDOM = np.random.default_rng(0)


def pixels(shape, dtype=np.uint8):
    """Noise on a ramp: compressed data of some length."""
    ramp = np.linspace(0, 200, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    values = ramp + RANDOM.integers(0, 50, shape)
    if np.dtype(dtype).kind == "f":
        return (values / 255).astype(dtype)
    return (values * (np.iinfo(dtype).max // 255)).astype(dtype)


def pillow(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array, **options):
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def dicom(is_deflated):
    pydicom = pytest.importorskip("pydicom")
    uid = pydicom.uid
    made = pydicom.dataset.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = (
        uid.DeflatedExplicitVRLittleEndian if is_deflated else uid.ExplicitVRLittleEndian
    )
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = uid.CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns, made.SamplesPerPixel, made.Modality = 12, 10, 1, "CT"
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 1
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.RescaleSlope, made.RescaleIntercept = 15, "1", "-1024"
    made.WindowCenter, made.WindowWidth = ["40", "300"], ["80", "1500"]
    made.ImagePositionPatient, made.PixelSpacing = [0, 0, 1], [1, 1]
    made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.PixelData = pixels((12, 10), np.int16).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def nifti(suffix):
    nibabel = pytest.importorskip("nibabel")
    import gzip

    volume = nibabel.Nifti1Image(pixels((8, 7, 3, 2), np.int16), np.eye(4))
    volume.header["cal_max"] = 200
    data = volume.to_bytes()
    return gzip.compress(data, 6) if suffix == ".nii.gz" else data


def exr(channels, **more):
    OpenEXR = pytest.importorskip("OpenEXR")
    import tempfile

    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | more
    with tempfile.TemporaryDirectory() as folder:
        OpenEXR.File(header, channels).write(f"{folder}/x.exr")
        with open(f"{folder}/x.exr", "rb") as file:
            return file.read()


def radiance(width):
    from mgdn_jax.io.radiance import encode

    return encode(pixels((9, width, 3), np.float32))


def heif():
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels((16, 16, 3)))).save(buffer)
    return buffer.getvalue()


def with_labels():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    exif.get_ifd(0x8769).update({0x829A: 0.01, 0x8827: 100})
    picture = Labels(profiles.srgb(), metadata.tobytes(exif), (300.0, 300.0))
    return codec.encode(pixels((16, 12, 3)), ".jpg", labels=picture)


def animated(kind):
    frames = [Image.fromarray(pixels((9, 8, 3))) for _ in range(3)]
    return pillow(frames[0], kind, save_all=True, append_images=frames[1:])


PICTURES = {
    "png": lambda: codec.encode_png(pixels((16, 12, 3))),
    "png_16": lambda: codec.encode_png(pixels((16, 12, 3), np.uint16)),
    "png_gray_alpha_16": lambda: codec.encode_png(pixels((9, 8, 2), np.uint16)),
    "png_palette": lambda: pillow(
        Image.fromarray(pixels((9, 8, 3))).quantize(9), "PNG", transparency=1
    ),
    "png_bits": lambda: pillow(Image.fromarray(pixels((9, 8)) > 99), "PNG"),
    "png_frames": lambda: animated("PNG"),
    "jpg_labels": with_labels,
    "jpg_progressive": lambda: pillow(Image.fromarray(pixels((17, 19))), "JPEG", progressive=True),
    "jpg_cmyk": lambda: pillow(Image.fromarray(pixels((9, 8, 4)), "CMYK"), "JPEG"),
    "bmp": lambda: codec.encode(pixels((9, 8, 3)), ".bmp"),
    "webp": lambda: codec.encode(pixels((16, 12, 4)), ".webp"),
    "webp_frames": lambda: animated("WEBP"),
    "ppm": lambda: codec.encode(pixels((9, 8, 3)), ".ppm"),
    "pgm_16": lambda: b"P5 8 9 65535\n" + pixels((9, 8), ">u2").tobytes(),
    "pgm_text": lambda: b"P2 4 3 255\n" + b" ".join(b"%d" % k for k in range(12)),
    "tif": lambda: codec.encode(pixels((16, 12, 3), np.uint16), ".tif"),
    "tif_pillow_lzw": lambda: pillow(
        Image.fromarray(pixels((16, 12, 3))), "TIFF", compression="tiff_lzw"
    ),
    "tif_fax": lambda: pillow(Image.fromarray(pixels((16, 32)) > 99), "TIFF", compression="group4"),
    "tif_float": lambda: tiff(pixels((16, 12), np.float32)),
    "tif_pages": lambda: tiff(pixels((3, 9, 8), np.uint16)),
    "tif_imagej": lambda: tiff(pixels((3, 9, 8), np.uint16), imagej=True),
    "tif_tiles": lambda: tiff(pixels((20, 20, 3), np.uint16), tile=(16, 16)),
    "tif_planes": lambda: tiff(
        pixels((3, 9, 8), np.uint16), photometric="rgb", planarconfig="separate"
    ),
    "tif_big": lambda: tiff(pixels((9, 8), np.int32), bigtiff=True, byteorder=">"),
    "hdr_flat": lambda: radiance(7),
    "hdr_runs": lambda: radiance(12),
    "exr": lambda: exr({"RGBA": pixels((9, 8, 4), np.float32)}),
    "exr_half": lambda: exr({"Y": pixels((9, 8), np.float16)}),
    "dcm": lambda: dicom(False),
    "dcm_deflated": lambda: dicom(True),
    "nii": lambda: nifti(".nii"),
    "nii.gz": lambda: nifti(".nii.gz"),
    "avif": lambda: pillow(Image.fromarray(pixels((16, 16, 3))), "AVIF"),
    "heic": heif,
}


def read_picture(name):
    def read(data):
        file = io.BytesIO(data)
        pages = reading.count(file, name)
        picture = reading.read(file, name, min(1, pages - 1))
        assert 0 < picture.pixels.nbytes < 2**31
        # What labels hold is used later, when nobody expects it to be broken.
        labels.shared_labels([picture.labels])
        labels.to_profile(picture)
        metadata.shot(picture.labels.exif)

    return read


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures(kind):
    if kind == "avif":
        pytest.importorskip("pillow_heif")
    name = f"x.{kind.split('_')[0]}"
    good = PICTURES[kind]()
    read_picture(name)(good)
    assert survey(read_picture(name), mutations(good, count(), 1))["refused"]


# -------------------------------------------------------------------------------- depth maps


def archive():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, depth=pixels((6, 5), np.float32), unit=np.array("mm"))
    return buffer.getvalue()


def stored_archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, file.open("a.npy", "w") as member:
        np.save(member, pixels((6, 5), np.uint16))
    return buffer.getvalue()


def array(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


MAPS = {
    "npy": lambda: array(pixels((6, 5), np.float32)),
    "npy_columns": lambda: array(np.asfortranarray(pixels((6, 5), ">u2"))),
    "npz": archive,
    "npz_stored": stored_archive,
    "png": lambda: codec.encode_png(pixels((6, 5), np.uint16)),
    "tif": lambda: codec.encode(pixels((6, 5), np.float32), ".tif"),
    "exr": lambda: exr({"Y": pixels((6, 5), np.float32)}),
}


@pytest.mark.parametrize("kind", MAPS)
def test_depth_maps(kind, tmp_path):
    place = tmp_path / f"x.{kind.split('_')[0]}"

    def read(data):
        place.write_bytes(data)
        assert depth.read_depth(place).values.ndim == 2

    read(MAPS[kind]())
    assert survey(read, mutations(MAPS[kind](), count(), 2))["refused"]


# ------------------------------------------------------------------------------ tables, texts


def table(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


SCORES = table([["method", "image", "EN", "SSIM_sum"], ["m", "a", 1.5, 2], ["m", "b", "", 3]])
MEANS = table(
    [
        ["dataset", "method", "n", "EN", "invalid", "source"],
        ["d", "m", 20, 7.1, "EN=1 MI=2", "a paper"],
        ["d", "other", 20, "inf", "", ""],
    ]
)
MATRIX = [[1.0, 0.01, 3], [0, 1, -2], [1e-6, 0, 1]]
ENTRY = {"matrix": MATRIX, "moving_size": [9, 8], "reference_size": [9, 8]}
OURS = {"kind": transforms.KIND, "version": 1, "transforms": [{"picture": "a", **ENTRY}]}
YAML = b"""%YAML:1.0
H: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 1., 0., 3., 0., 1., -2., 0., 0., 1. ]
"""
MANIFEST = {"format": 1, "roles": ["a", "b"], "examples": 3, "set": "pairs", "fingerprint": "0"}
TEXTS = {
    "scores.csv": (scores.read_tables, SCORES),
    "means.csv": (summaries.read_summaries, MEANS),
    "ours.json": (transforms.read_transforms, json.dumps(OURS).encode()),
    "named.json": (transforms.read_transforms, json.dumps({"a": MATRIX, "b": MATRIX}).encode()),
    "list.json": (transforms.read_transforms, json.dumps([MATRIX]).encode()),
    "plain.txt": (transforms.read_transforms, b"1 0 3\n0 1 -2 # shift\n0, 0, 1\n"),
    "cv.yml": (transforms.read_transforms, YAML),
    "h.npy": (transforms.read_transforms, array(np.array(MATRIX))),
    "config.json": (objects.read_object, json.dumps({"train": MANIFEST, "x": [1.5]}).encode()),
    folders.MANIFEST: (lambda path: builders.read_manifest(path.parent), json.dumps(MANIFEST)),
    "exposure.txt": (lambda path: scenes.read_steps(path.read_bytes(), "x"), b"-2.0\n0.0\n2.0\n"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_tables_and_texts(name, tmp_path):
    place = tmp_path / name
    reader, good = TEXTS[name]
    good = good.encode() if isinstance(good, str) else good

    def read(data):
        place.write_bytes(data)
        assert reader(place) is not None

    read(good)
    assert survey(read, mutations(good, count(), 3))["refused"]


def test_colour_profiles():
    picture = Picture(pixels((2, 2, 3), np.uint16), "x", Labels())
    good = profiles.srgb()

    def read(data):
        marked = Picture(picture.pixels, "x", Labels(profile=data))
        assert labels.to_profile(marked).pixels.shape == (2, 2, 3)

    read(good)
    assert survey(read, mutations(good, count(), 4))["read"]
