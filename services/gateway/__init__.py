"""HTTP in, commands out: accepts requests for exports and answers for their jobs."""
