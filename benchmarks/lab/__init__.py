"""What the studies share: cells that resume, records, training, scores, tables and pictures."""
