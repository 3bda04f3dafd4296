"""The benchmarks, what they share (types, a run on disk, the runner), and where their data comes from."""
