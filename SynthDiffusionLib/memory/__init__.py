"""Where a job runs and with how much memory."""
