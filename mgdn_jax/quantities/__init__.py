"""What pictures measure beyond pixels: depth, radiance. One preparation a task, used by all."""
