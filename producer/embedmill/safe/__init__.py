"""Guards against broken or hostile input: text in messages, files, native code."""
