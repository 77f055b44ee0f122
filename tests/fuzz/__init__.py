"""Every reader of bytes from Redis or a model's folder, for hypothesis (tests/unit) and atheris (``make fuzz``)."""
