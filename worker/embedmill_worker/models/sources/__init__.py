"""Sources of models: wheels, fastembed, a hub, a folder."""
