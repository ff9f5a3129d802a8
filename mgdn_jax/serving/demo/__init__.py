"""A local page on which pictures are fused: `mgdn demo`."""
