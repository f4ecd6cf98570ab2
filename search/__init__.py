"""The search around a fit: declarations, studies in SQL, workers, and what people read of them."""
