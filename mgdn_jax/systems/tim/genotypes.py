"""Published genotypes: the two primitives of a cell, in their order.

A released genotype lists two (name, index) pairs. Its code applies the operations one after the
other and ignores the indices, so a cell is a chain.
"""

Pair = tuple[str, str]

GENOTYPES: dict[str, Pair] = {
    "fusion_M": ("Denseblocks_3_1", "DilConv_3_2"),
    "fusion_M_scales": ("Residualblocks_3_1", "DilConv_3_2"),
    "fusion_light": ("Residualblocks_3_1", "ECAattention_3"),
    "fusion_ir_proposed": ("SPAattention_3", "DilConv_3_2"),
    "fusion_vis_proposed": ("ECAattention_3", "SPAattention_3"),
    "fusion_mri": ("Residualblocks_5_1", "Residualblocks_5_1"),
    "fusion_ct": ("Residualblocks_5_1", "SPAattention_3"),
    "fusion_mri_pet": ("SepConv_3_1", "Residualblocks_5_1"),
    "fusion_pet": ("Residualblocks_3_1", "Residualblocks_5_1"),
    "fusion_mri_spect": ("Residualblocks_5_1", "Denseblocks_3_1"),
    "fusion_spect": ("Residualblocks_3_1", "SPAattention_3"),
    # In the released file, but used by no released script.
    "fusion_ir": ("SepConv_3_1", "SPAattention_3"),
    "fusion_vis": ("Residualblocks_3_1", "SPAattention_3"),
    "fusion_ir_darts": ("ECAattention_3", "ECAattention_3"),
    "fusion_vis_darts": ("SPAattention_3", "SPAattention_3"),
}
"""By released name; ``fusion_M_scales`` is the field that the cell of three scales reads."""
