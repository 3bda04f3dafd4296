"""BLIP3-o: the network, flow matching, checkpoints, training, and the adapters of other models."""
