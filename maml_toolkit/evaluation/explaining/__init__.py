"""Are the maps of a method worth looking at? Measures that ask the network, and measures that ask the lesion."""
