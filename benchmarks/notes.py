"""What cards of weights say that no run knows: task, inputs, data, and how pictures are used."""

from typing import Any

_STRETCHED = {"padding": "network", "chroma": "centred", "stretch": "minmax"}
_LINEAR = _STRETCHED | {"stretch": "none"}
_FILLED = _STRETCHED | {"stretch": "fill"}
_DEPTH_MAPS = "{dataset_size} photographs with depth of RGB-D-D, of scenes that no test shows"
NOTES: dict[str, dict[str, Any]] = {
    "mgdn-mff": {
        "task": "multi-focus photographs",
        "inputs": "two pictures of one scene, RGB, either in either place",
        "trained_on": "multi-focus pairs synthesised from {dataset_size} BSDS500 photographs",
        "inference": {"padding": "network"},
    },
    "mgdn-mef": {
        "task": "multi-exposure photographs",
        "inputs": "two or more exposures of one scene, RGB, in any order",
        "trained_on": "{dataset_size} pairs of MEFB that no test has, without a target",
        "inference": {"padding": "network"},
    },
    "mgdn-gdsr4": {
        "task": "guided depth super-resolution, by 4",
        "inputs": "photograph, RGB; depth map reduced by 4 and enlarged again",
        "trained_on": _DEPTH_MAPS,
        "inference": {"padding": "network"},
    },
    "mgdn-gdsr8": {
        "task": "guided depth super-resolution, by 8",
        "inputs": "photograph, RGB; depth map reduced by 8 and enlarged again",
        "trained_on": _DEPTH_MAPS,
        "inference": {"padding": "network"},
    },
    "mgdn-hdr": {
        "task": "HDR deghosting",
        "inputs": "short, middle and long exposure, each as it is and as light",
        "trained_on": "brackets synthesised from {dataset_size} HDR pictures and BSDS500",
        "inference": {"padding": "network"},
    },
    "fusion-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": "{dataset_size} pairs of RoadScene, MSRS, MFNet, M3FD, FMB, LLVIP, KAIST, "
        "FLIR, TNO and a drone over solar panels, disjoint from the test sets",
        "inference": _LINEAR,
    },
    "fusion-mif": {
        "task": "medical: CT, PET or SPECT with MRI",
        "inputs": "CT/PET/SPECT, MRI",
        "trained_on": "{dataset_size} Harvard medical slices, of cases no test set has",
        "inference": _LINEAR,
    },
    "refusion-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": "{dataset_size} RoadScene pairs, disjoint from the test sets",
        "inference": _STRETCHED,
    },
    "refusion-mif": {
        "task": "medical: CT, PET or SPECT with MRI",
        "inputs": "CT/PET/SPECT, MRI",
        "trained_on": "{dataset_size} Harvard medical slices, of cases no test set has",
        "inference": _STRETCHED,
    },
    "cddfuse-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": "{dataset_size} RoadScene pairs, disjoint from the test sets",
        "inference": _STRETCHED,
    },
    "cddfuse-mif": {
        "task": "medical: CT, PET or SPECT with MRI",
        "inputs": "CT/PET/SPECT, MRI",
        "trained_on": "{dataset_size} Harvard medical slices, of cases no test set has",
        "inference": _STRETCHED,
    },
    "lkc-funet-small-ivf": {
        "task": "infrared and visible",
        "inputs": "infrared, visible",
        "trained_on": "{dataset_size} RoadScene pairs, disjoint from the test sets",
        "inference": _FILLED,
    },
    "lkc-funet-small-mif": {
        "task": "medical: CT, PET or SPECT with MRI",
        "inputs": "CT/PET/SPECT, MRI",
        "trained_on": "{dataset_size} Harvard medical slices, of cases no test set has",
        "inference": _LINEAR,
    },
    "refusion-mff": {
        "task": "multi-focus photographs",
        "inputs": "near, far",
        "trained_on": "multi-focus pairs synthesised from {dataset_size} BSDS500 photographs",
        "inference": _LINEAR | {"base": "focus"},
    },
    "refusion-mef": {
        "task": "multi-exposure photographs",
        "inputs": "under-, over-exposed",
        "trained_on": "multi-exposure pairs synthesised from {dataset_size} BSDS500 photographs",
        "inference": _STRETCHED,
    },
}
"""What a run's card does not know, by name of the weights."""
