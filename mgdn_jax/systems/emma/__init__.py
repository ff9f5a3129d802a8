"""EMMA: fusion learned through pseudo-sensing and equivariance (Zhao et al., CVPR 2024)."""
