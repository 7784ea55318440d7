"""The demonstration: four nodes on this machine do the main job on real data, driven through the command line."""
