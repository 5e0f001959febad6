"""What runs a model's forward pass. One runner per kind of model; `pillion.worker` picks it."""
