"""The parts of BLIP3-o that are trained, one class each: what is learned, the loss, and where it is saved.

Order for a model from scratch: vae and eva_clip, then decoder; backbone, then generator.
"""
