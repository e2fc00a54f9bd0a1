"""How the shipped weights are made: data, losses and the training loop.

The package proper never imports this; it needs OpenCV, of the extra `train`.
"""
