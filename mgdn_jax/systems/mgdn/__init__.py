"""MGDN: mutual-guided dynamic network (Guan et al., ACM MM 2023)."""
