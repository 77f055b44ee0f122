"""What stands between the product and broken or hostile input: text for messages, files, native code."""
