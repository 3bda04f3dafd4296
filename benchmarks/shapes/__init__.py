"""The embedded world: scenes of colored shapes, drawn and asked about in each benchmark's own schema."""
