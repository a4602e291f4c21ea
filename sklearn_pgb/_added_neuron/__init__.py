"""Networks with added neurons: hybrid local and global training, with a monitor."""
