"""ReFusion: fusion under a learned loss (Bai et al., IJCV 2024)."""
