"""Consumes export commands, dumps a tenant's schema into the spool, and announces the dump."""
