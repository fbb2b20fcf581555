"""What a Linux host shows of itself: files of a running machine, of a capture, of an archive."""
