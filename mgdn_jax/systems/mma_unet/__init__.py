"""MMA-UNet: two U-Nets fused across their levels (Huang et al., arXiv 2404.17747)."""
