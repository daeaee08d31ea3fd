"""Files: those from elsewhere are read without running code, those of our own are complete or not there."""
