"""What the services promise each other: states, messages, names on the broker, manifest, errors.

Pure: imports nothing of ours and opens nothing.
"""
