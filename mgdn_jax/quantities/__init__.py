"""What pictures measure beyond pixels: depth and radiance, each with its one preparation."""
