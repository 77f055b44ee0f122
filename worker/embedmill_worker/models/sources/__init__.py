"""Where models come from: wheels, fastembed, a hub, a folder."""
