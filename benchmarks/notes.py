"""What cards of weights say that no run knows: task, inputs, data, and how pictures are used."""

from typing import Any

_STRETCHED = {"padding": "network", "chroma": "centred", "stretch": "minmax"}
_LINEAR = _STRETCHED | {"stretch": "none"}
_FILLED = _STRETCHED | {"stretch": "fill"}
_CAMERAS = (
    "{dataset_size} pairs of RoadScene, MSRS, MFNet, M3FD, FMB, LLVIP, KAIST, FLIR, TNO and a "
    "drone over solar panels, disjoint from the test sets"
)
_DEPTH_MAPS = "{dataset_size} photographs with depth of RGB-D-D, of scenes that no test shows"
# What the sources of the data say about its use; most repositories state a licence for code alone.
_THERMAL_TERMS = (
    "research material: LLVIP for non-commercial purposes; M3FD's repository has a GPL file, "
    "those of MSRS, KAIST and TNO copies MIT files; RoadScene, FMB, FLIR, MFNet and the solar "
    "plant none; RoadScene and FLIR derive from the FLIR ADAS data"
)
_MEDICAL_TERMS = "research material: no licence file; slices of the Harvard whole-brain atlas"
_BSDS_TERMS = "research material: BSDS500 states no licence and asks to cite Arbelaez et al. 2011"
_MEFB_TERMS = "research material: MEFB says its pictures are public for research, and asks to cite"
_DEPTH_TERMS = "research material: no licence file; RGB-D-D asks to cite FDSR (CVPR 2021)"
NOTES: dict[str, dict[str, Any]] = {
    "mgdn-mff": {
        "task": "multi-focus photographs",
        "inputs": "two pictures of one scene, RGB, either in either place",
        "trained_on": "multi-focus pairs synthesised from {dataset_size} BSDS500 photographs",
        "verdict": "first of 47 rows on Lytro-20, for photographs and stacks; bad at blur of"
        " dozens of pixels, as of macros at full size",
        "terms": _BSDS_TERMS,
        "inference": {"padding": "network"},
    },
    "mgdn-mef": {
        "task": "multi-exposure photographs",
        "inputs": "two or more exposures of one scene, RGB, in any order",
        "trained_on": "{dataset_size} pairs of MEFB that no test has, without a target",
        "verdict": "keeps shadows and tones of brackets of any length; flatter than "
        "refusion-mef where the bracket is narrow",
        "terms": _MEFB_TERMS,
        "inference": {"padding": "network"},
    },
    "mgdn-gdsr4": {
        "task": "guided depth super-resolution, by 4",
        "inputs": "photograph, RGB; depth map reduced by 4 and enlarged again",
        "trained_on": _DEPTH_MAPS,
        "verdict": "a third to a half below bicubic's errors by 4; bad at rooms deeper than "
        "its training's, and behind networks trained longer",
        "terms": _DEPTH_TERMS,
        "inference": {"padding": "network"},
    },
    "mgdn-gdsr8": {
        "task": "guided depth super-resolution, by 8",
        "inputs": "photograph, RGB; depth map reduced by 8 and enlarged again",
        "trained_on": _DEPTH_MAPS,
        "verdict": "a quarter to a third below bicubic's errors by 8; bad at rooms deeper "
        "than its training's, and behind networks trained longer",
        "terms": _DEPTH_TERMS,
        "inference": {"padding": "network"},
    },
    "mgdn-hdr": {
        "task": "HDR deghosting",
        "inputs": "short, middle and long exposure, each as it is and as light",
        "trained_on": "brackets synthesised from {dataset_size} HDR pictures and BSDS500",
        "verdict": "cuts moving things out of three exposures; bad where the reference clips"
        " and the shortest exposure shows something else",
        "terms": _BSDS_TERMS,
        "inference": {"padding": "network"},
    },
    "fusion-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": _CAMERAS,
        "verdict": "the most contrast and fidelity, no blobs in skies; bad at fine texture and at "
        "small videos, where refusion-ivf is sharper and stiller",
        "terms": _THERMAL_TERMS,
        "inference": _LINEAR,
    },
    "fusion-mif": {
        "task": "medical: CT, PET or SPECT with MRI",
        "inputs": "CT/PET/SPECT, MRI",
        "trained_on": "{dataset_size} Harvard medical slices, of cases no test set has",
        "verdict": "first on SPECT, black stays black; bad at CT, where refusion-mif and the "
        "pixelwise maximum are ahead",
        "terms": _MEDICAL_TERMS,
        "inference": _LINEAR,
    },
    "refusion-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": _CAMERAS,
        "verdict": "sharp edges of either picture at even tones; bad at contrast, and grays "
        "white skies a little where the infrared is black",
        "terms": _THERMAL_TERMS,
        "inference": _LINEAR,
    },
    "refusion-mif": {
        "task": "medical: CT, PET or SPECT with MRI",
        "inputs": "CT/PET/SPECT, MRI",
        "trained_on": "{dataset_size} Harvard medical slices, of cases no test set has",
        "verdict": "first on CT; bad at sequences, for every picture is stretched by itself, and "
        "behind the pixelwise maximum on PET",
        "terms": _MEDICAL_TERMS,
        "inference": _STRETCHED,
    },
    "cddfuse-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": "{dataset_size} RoadScene pairs, disjoint from the test sets",
        "verdict": "much contrast and detail; bad at white skies, into which it paints gray,"
        " and at sequences, for every picture is stretched by itself",
        "terms": _THERMAL_TERMS,
        "inference": _STRETCHED,
    },
    "cddfuse-mif": {
        "task": "medical: CT, PET or SPECT with MRI",
        "inputs": "CT/PET/SPECT, MRI",
        "trained_on": "{dataset_size} Harvard medical slices, of cases no test set has",
        "verdict": "sharp tissue; bad at CT and PET, where the pixelwise maximum is ahead",
        "terms": _MEDICAL_TERMS,
        "inference": _STRETCHED,
    },
    "lkc-funet-small-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": _CAMERAS,
        "verdict": "sums what both show, natural tones; bad at fine texture, and slow and "
        "large beside the others",
        "terms": _THERMAL_TERMS,
        "inference": _LINEAR,
    },
    "tim-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": _CAMERAS,
        "verdict": "strong edges and local contrast, small and quick; bad at pictures that are dark"
        " as a whole, and grays white skies where the infrared is black",
        "terms": _THERMAL_TERMS,
        "inference": _LINEAR,
    },
    "cen-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": _CAMERAS,
        "verdict": "natural tones, lamps and white skies stay; bad at contrast and at fine detail"
        " of the infrared, where other networks are ahead",
        "terms": _THERMAL_TERMS,
        "inference": _LINEAR,
    },
    "lkc-funet-small-mif": {
        "task": "medical: CT, PET or SPECT with MRI",
        "inputs": "CT/PET/SPECT, MRI",
        "trained_on": "{dataset_size} Harvard medical slices, of cases no test set has",
        "verdict": "even tones without a stretch; bad at black, which comes out a few levels gray",
        "terms": _MEDICAL_TERMS,
        "inference": _LINEAR,
    },
    "refusion-mff": {
        "task": "multi-focus photographs",
        "inputs": "near, far",
        "trained_on": "multi-focus pairs synthesised from {dataset_size} BSDS500 photographs",
        "verdict": "true tones; less sharp than mgdn-mff, which is the one for photographs",
        "terms": _BSDS_TERMS,
        "inference": _LINEAR | {"base": "focus"},
    },
    "refusion-mef": {
        "task": "multi-exposure photographs",
        "inputs": "under-, over-exposed",
        "trained_on": "multi-exposure pairs synthesised from {dataset_size} BSDS500 photographs",
        "verdict": "the most contrast; bad at shadows of wide brackets of two, which it "
        "crushes, and at lamps, which get rings",
        "terms": _BSDS_TERMS,
        "inference": _STRETCHED,
    },
}
"""What a run's card does not know, by name of the weights."""
