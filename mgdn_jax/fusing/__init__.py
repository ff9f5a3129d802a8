"""Using a network: pictures of any size, type and number in, the fused picture out."""
