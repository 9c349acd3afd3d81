"""Reports that need no network: sections of sentences, tables and plots, written as one HTML page, JSON and CSV."""
