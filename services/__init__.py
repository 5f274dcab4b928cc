"""The long-running processes: gateway, exporter, uploader. They meet only through `shared`."""
