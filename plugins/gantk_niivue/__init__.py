"""Volumes of test patients in the report, shown by NiiVue: input, output, truth and error, their cursors linked."""
