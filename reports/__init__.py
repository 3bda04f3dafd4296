"""Tables, pages and statistics of stored runs. Imports no torch."""
