"""Files and pixels at the edge of the package."""
