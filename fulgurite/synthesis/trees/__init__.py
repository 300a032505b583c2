"""UltraInteract's preference trees: right and wrong actions per turn, of which only the wrong one is gone on from."""
