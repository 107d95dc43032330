"""A checkpoint evaluated on shifted images: what the commands `evaluate` and `shift` do."""
