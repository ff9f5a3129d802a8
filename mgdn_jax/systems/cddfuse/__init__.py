"""CDDFuse: correlation-driven dual-branch feature decomposition (Zhao et al., CVPR 2023)."""
