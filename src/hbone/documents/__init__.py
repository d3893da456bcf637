"""What operators write, YAML and JSON, read so that every mistake knows its file and line."""
