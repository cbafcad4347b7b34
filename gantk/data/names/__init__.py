"""What names of files and folders say: domains, patients, visits and versions of an image."""
