"""The HTTP server: one process, models that stay loaded, requests that share batches, and the web page."""
