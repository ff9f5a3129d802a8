"""LKC-FUNet: a UNet with large kernels (He et al., Pattern Recognition 2026)."""
