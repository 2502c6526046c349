"""What a model is asked: contrast pairs and named tasks."""
