"""`pgferry`: what operators type; it also starts the services."""
