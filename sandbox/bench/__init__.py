"""Measures pgferry on private servers against pg_dump alone: `./run bench`."""
