"""What is measured when a model is first loaded: how vectors depend on batches, its speed, what a precision costs."""
