"""What is measured of Millrace's reliability, a module each."""
