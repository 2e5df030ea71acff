"""What an integration leaves behind: the recorded path, its events, its files."""
