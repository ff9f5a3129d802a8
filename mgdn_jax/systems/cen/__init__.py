"""CEN: branches that share convolutions exchange channels (Wang et al., NeurIPS 2020)."""
